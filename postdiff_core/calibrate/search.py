"""Successive halving (Jamieson and Talwalkar 2016) over settings, and the choice among those that are left.

Every candidate draws one picture; the better half draws twice as many, and so on, until few are left.
Knows neither models nor pictures: candidates are whatever is hashable, pictures are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Generic, NamedTuple, TypeVar

C = TypeVar("C", bound=Hashable)

ENOUGH_FOR_TWO = 20  # pictures on which the last two candidates are compared


class Rung(NamedTuple):
    """So many candidates stay, and have drawn so many pictures each when it ends."""

    candidates: int
    pictures: int


class Difference(NamedTuple):
    """How much better one candidate is than another on the pictures both have drawn, and its standard error."""

    mean: float
    error: float


def rungs(candidates: int, pictures: int) -> list[Rung]:
    """Half the candidates and twice the pictures each time, until all are drawn, or twenty by the last two."""

    def enough(left: int) -> int:
        return pictures if left > 2 else min(pictures, ENOUGH_FOR_TWO)

    ladder = [Rung(candidates, min(1, pictures))]
    while ladder[-1].pictures < enough(ladder[-1].candidates):
        fewer = min(candidates, max(2, math.ceil(ladder[-1].candidates / 2)))
        # The last two may come from a rung that drew more than they need.
        drawn = max(ladder[-1].pictures, min(2 * ladder[-1].pictures, enough(fewer)))
        ladder.append(Rung(fewer, drawn))
    return ladder


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """How much higher the first scores are, picture by picture; None unless they share two pictures."""
    common = one.keys() & other.keys()
    if len(common) < 2:
        return None
    gains = [one[picture] - other[picture] for picture in sorted(common)]
    return Difference(fmean(gains), stdev(gains) / math.sqrt(len(gains)))


class Search(Generic[C]):
    """Scores of candidates on pictures 0 ... `pictures` - 1, higher is better, and what follows from them.

    `cost` prices one run of each candidate. `run` may be left by an exception at any time: `choice` then gives the best
    so far.
    """

    def __init__(self, cost: Mapping[C, float], pictures: int) -> None:
        if not cost or not pictures:
            raise ValueError("There is nothing to search: no candidate, or no picture to draw.")
        self.cost = dict(cost)
        self.scores: dict[C, dict[int, float]] = {candidate: {} for candidate in cost}
        self.left: list[C] = list(self.cost)  # not dropped yet
        self._ladder = rungs(len(self.cost), pictures)

    def run(self, measure: Callable[[C, int], float], measured: Callable[[], None] = lambda: None) -> None:
        """Measure and drop until those left have drawn enough; `measured` is called after every score."""
        for rung in self._ladder:
            self.left = self._best(rung.candidates)
            for picture in range(rung.pictures):
                for candidate in self.left:
                    if picture not in self.scores[candidate]:
                        self.scores[candidate][picture] = measure(candidate, picture)
                        measured()

    def choice(self) -> C | None:
        """The cheapest of those left that is within one standard error of their best; None before the first score.

        One that was dropped is worse, and on too few pictures for that error to say by how much.
        """
        drawn = [candidate for candidate in self.left if self.scores[candidate]]
        if not drawn:
            return None
        best = max(drawn, key=self.mean)
        return min((each for each in drawn if self._no_worse(each, best)), key=lambda candidate: self.cost[candidate])

    def mean(self, candidate: C) -> float:
        """The mean score on the pictures that all of those left have drawn, or on its own if there are none."""
        common = self._common(self.left) or set(self.scores[candidate])
        return fmean(self.scores[candidate][picture] for picture in common)

    def difference(self, one: C, other: C) -> Difference | None:
        """How much better `one` is; None unless both have drawn two of the same pictures."""
        return difference(self.scores[one], self.scores[other])

    @property
    def pictures_of_the_last(self) -> int:
        """How many pictures those draw that stay to the end."""
        return self._ladder[-1].pictures

    @property
    def measurements(self) -> tuple[int, int]:
        """How many there are by now, and in the whole search."""
        planned = drawn = 0
        for rung in self._ladder:
            planned += rung.candidates * (rung.pictures - drawn)
            drawn = rung.pictures
        return sum(map(len, self.scores.values())), planned

    def remaining_cost(self) -> float:
        """What the rest of the search costs, if those that stay cost what those left now do on average."""
        done, planned = self.measurements
        return (planned - done) * fmean(self.cost[candidate] for candidate in self.left)

    def _best(self, count: int) -> list[C]:
        if count >= len(self.left):
            return self.left
        return sorted(self.left, key=lambda candidate: (-self.mean(candidate), self.cost[candidate]))[:count]

    def _no_worse(self, candidate: C, best: C) -> bool:
        if candidate == best:
            return True
        difference = self.difference(best, candidate)
        return difference is not None and difference.mean <= difference.error

    def _common(self, candidates: Sequence[C]) -> set[int]:
        return set.intersection(*(set(self.scores[candidate]) for candidate in candidates))
