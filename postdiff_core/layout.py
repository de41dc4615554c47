"""A run laid out before it is made: its plan under its own sigmas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .architecture import Size, sigma_at, size_ratio
from .schedule import Plan, Settings, plan, step_at_sigma


def lay_out(
    settings: Settings, sigmas: Sequence[float], model_sampling: Any, size: Size, low: Size | None
) -> tuple[Plan, Size | None]:
    """The plan of a run with these sigmas, and the latent size of its low-resolution steps (None if it has none).

    `size` is the latent (height, width), `low` what its low-resolution steps would have, None if there can be none.
    """
    laid_out = plan(
        settings,
        len(sigmas) - 1,
        lambda fraction: step_at_sigma(sigmas, sigma_at(model_sampling, fraction)),
        can_lower_resolution=low is not None,
    )
    if low is None or not laid_out.low_res_steps:
        return laid_out, None
    return replace(laid_out, low_res_scale=1 / size_ratio(size, low)), low
