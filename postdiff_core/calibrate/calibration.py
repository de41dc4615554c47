"""The search for the settings that suit a model, on pictures that it draws (section 2.4, appendix D)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from ..schedule import Settings
from .grid import Candidate, Grid, usable_techniques
from .pricing import Pricing
from .runs import PromptSeed, Runs
from .scores import Score
from .search import Difference, Search, difference

log = logging.getLogger("postdiff.calibrate")


MAX_CHECKED_PICTURES = 8  # pictures on which a score is checked against the other prompts


class OutOfTime(Exception):
    """The budget is spent."""


@dataclass(frozen=True)
class Row:
    """What was found for one candidate.

    `score` is the chosen's mean plus the mean difference from it on the pictures that both drew: so candidates that
    drew few pictures can be compared with those that drew many.
    """

    candidate: Candidate
    share: float  # of the stock run's work
    pictures: int
    score: float
    error: float | None  # standard error of the difference from the chosen; None for it, and from a single picture
    values: Mapping[str, float]  # means over its own pictures of all that the score found
    seconds: float | None  # the median of the runs made this time

    @property
    def times_less_work(self) -> float:
        return 1 / self.share


@dataclass(frozen=True)
class Result:
    """A calibration's outcome. `chosen` is one of `rows`, which are sorted from the dearest to the cheapest."""

    chosen: Row
    rows: Sequence[Row]
    stock: Row | None  # the stock run, where its score can be compared with the others'
    gain: Difference | None  # of the chosen over the stock run, on the same pictures
    score_name: str
    complete: bool
    notes: Sequence[str]


class Calibration:
    """Draws and scores pictures until the search is done or the time is up.

    `on_measured` is called at the start and after every picture. An interruption (a BaseException of the host) leaves
    what was measured in the store, and `result` gives the best so far.
    """

    def __init__(
        self,
        runs: Runs,
        score: Score,
        pricing: Pricing,
        candidates: Sequence[Candidate],
        pictures: Sequence[PromptSeed],
        *,
        seconds: float = math.inf,
        on_measured: Callable[[Calibration], None] = lambda calibration: None,
    ) -> None:
        self.runs, self.score, self.pricing, self.pictures = runs, score, pricing, pictures
        self.search = Search({candidate: pricing.share(candidate) for candidate in candidates}, len(pictures))
        self.stock = Candidate(pricing.stock_steps, Settings())
        self.measured = 0  # pictures scored this time
        self._stock_measured = 0  # at the end, beside the chosen's
        self._values: dict[Candidate, dict[int, dict[str, float]]] = {}
        self._on_measured = on_measured
        self._deadline = time.monotonic() + seconds
        self._seconds = self._cost = 0.0  # spent this time; cost in stock runs

    def run(self) -> Result:
        """The whole search, or as much as the time allows; one picture at least."""
        self._on_measured(self)
        try:
            self.search.run(self._measure, lambda: self._on_measured(self))
            self._measure_stock()
        except OutOfTime:
            return self.result(complete=False)
        return self.result(complete=True)

    def result(self, *, complete: bool) -> Result:
        """What is known by now. Raises ValueError if nothing is."""
        chosen = self.search.choice()
        if chosen is None:
            raise ValueError("Nothing has been measured yet.")
        rows = [self._row(candidate, chosen) for candidate, scores in self.search.scores.items() if scores]
        stock = self.stock in self._values and self.score.ranks_resolutions
        return Result(
            chosen=self._row(chosen, chosen),
            rows=sorted(rows, key=lambda row: -row.share),
            stock=self._row(self.stock, chosen) if stock else None,
            gain=difference(self._scores(chosen), self._scores(self.stock)) if stock else None,
            score_name=self.score.name,
            complete=complete,
            notes=sorted(self.runs.notes),
        )

    @property
    def measurements(self) -> tuple[int, int]:
        """How many pictures are scored by now, and in all: the search's, then the stock run's beside the chosen's."""
        done, planned = self.search.measurements
        return done + self._stock_measured, planned + self._stock_pictures

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes, at the pace so far; None before the first picture."""
        if not self._cost:
            return None
        left = self.search.remaining_cost() + self._stock_pictures - self._stock_measured
        wanted = self._seconds / self._cost * left
        return max(0.0, min(wanted, self._deadline - time.monotonic()))

    @property
    def _stock_pictures(self) -> int:
        return self.search.pictures_of_the_last if self.score.ranks_resolutions else 0

    def _measure(self, candidate: Candidate, index: int) -> float:
        picture, store = self.pictures[index], self.runs.store
        run = self.runs.describe(candidate, picture)
        values = store.score(run, self.score.key)
        if values is None:
            if self.measured and time.monotonic() >= self._deadline:
                raise OutOfTime
            start = time.monotonic()
            values = self.score.values(candidate, picture)
            if not all(map(math.isfinite, values.values())):
                raise ValueError(
                    f"The picture of {picture.prompt!r} with seed {picture.seed} by {candidate} holds numbers that are "
                    "not finite. If the stock run's is black too, start ComfyUI with --fp32-vae, or with --force-fp32."
                )
            store.put_score(run, self.score.key, values)
            self._seconds += time.monotonic() - start
            self._cost += self.pricing.share(candidate)
            self.measured += 1
        self._values.setdefault(candidate, {})[index] = values
        return values[self.score.name]

    def _measure_stock(self) -> None:
        """On the pictures of the chosen, to say what is lost or won, and whether the scores mean anything."""
        chosen = self.search.choice()
        if chosen is None or not self.score.ranks_resolutions:
            return
        for index in sorted(self._values[chosen]):
            self._measure(self.stock, index)
            self._stock_measured += 1
            self._on_measured(self)
        doubt = self.score.doubt([(self.stock, picture) for picture in self.pictures[:MAX_CHECKED_PICTURES]])
        self.runs.notes.update([doubt] if doubt else [])

    def _scores(self, candidate: Candidate) -> dict[int, float]:
        return {index: values[self.score.name] for index, values in self._values[candidate].items()}

    def _row(self, candidate: Candidate, chosen: Candidate) -> Row:
        values, own, level = list(self._values[candidate].values()), self._scores(candidate), self._scores(chosen)
        common = own.keys() & level.keys()
        gain = difference(own, level)
        seconds = self.runs.seconds_of(candidate)
        return Row(
            candidate=candidate,
            share=self.pricing.share(candidate),
            pictures=len(values),
            score=mean(level.values()) + mean(own[i] - level[i] for i in common) if common else mean(own.values()),
            error=gain.error if gain and candidate != chosen else None,
            values={name: mean(each[name] for each in values) for name in values[0]},
            seconds=median(seconds) if seconds else None,
        )


def candidates_for(runs: Runs, score: Score, pricing: Pricing, grid: Grid, min_speedup: float) -> list[Candidate]:
    """The combinations worth drawing: those that save enough, each kind of run once.

    Raises ValueError if none does, or if the score cannot compare them.
    """
    able = usable_techniques(runs.model, runs.sampling.cfg)
    candidates = pricing.distinct(grid.candidates(able))
    if not score.ranks_resolutions:
        _require_one_change_of_resolution(candidates)
        candidates = [each for each in candidates if each != each.uncached(pricing.stock_steps)]
    if not candidates:
        raise ValueError(
            "There is nothing to compare: these lists hold nothing but the run that all others are compared with. Give "
            "several numbers of steps (20, 14), or connect clip_vision: without it low_res_scale and low_res_until "
            "cannot be compared, and what else is listed may save nothing on this model at this cfg."
        )
    saving = [candidate for candidate in candidates if pricing.share(candidate) * min_speedup <= 1 + 1e-6]
    if not saving:
        cheapest = min(candidates, key=pricing.share)
        raise ValueError(
            f"No combination of these lists does {min_speedup:g} times less work than the stock run. The cheapest, "
            f"{cheapest}, does {1 / pricing.share(cheapest):.2f} times less: lower min_speedup, or add cheaper ones."
        )
    return saving


def _require_one_change_of_resolution(candidates: Sequence[Candidate]) -> None:
    pairs = sorted({(each.low_res_scale, each.low_res_until) for each in candidates})
    if len(pairs) > 1:
        listed = ", ".join(f"{beta:g} / {s:g}" for beta, s in pairs)
        raise ValueError(
            f"Without clip_vision, runs that change resolution differently cannot be compared: each composes another "
            f"picture from the same seed. low_res_scale / low_res_until ask for {listed}. Connect clip_vision, or give "
            "one value of each."
        )
