"""Differences between settings drawn for the same pairs, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Z = 1.959964
SEED, RESAMPLES = 0, 2000


class Estimate(NamedTuple):
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def share_difference(ours: np.ndarray, full: np.ndarray) -> Estimate:
    """Share of the true in `ours` minus that in `full`, pair by pair (Agresti and Min 2005: half a pair a cell)."""
    gained, lost = int((ours & ~full).sum()), int((~ours & full).sum())
    count = len(ours) + 2
    centre = (gained - lost) / count
    half = Z / count * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / count)
    return Estimate((gained - lost) / len(ours), centre - half, centre + half)


def mean(values: np.ndarray) -> Estimate:
    return bootstrap(lambda rows: float(values[rows].mean()), len(values))


def bootstrap(figure: Callable[[np.ndarray], float], pairs: int, resamples: int = RESAMPLES) -> Estimate:
    """`figure` of all pairs, given as row numbers, and its percentile interval over pairs drawn with replacement."""
    generator = np.random.default_rng(SEED)
    drawn = [figure(generator.integers(pairs, size=pairs)) for _ in range(resamples)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Estimate(figure(np.arange(pairs)), float(low), float(high))
