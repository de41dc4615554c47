"""What a user asks a calibration for, turned into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import folder_paths

from .. import patch, presets
from ..architecture import Size
from ..schedule import MixedResolution, Settings
from .calibration import Calibration, Result, candidates_for
from .frontier_picture import MAX_EXAMPLES, Example
from .grid import QUICK, THOROUGH, Grid
from .pricing import Pricing
from .progress import as_pil
from .runs import PromptSeed, Runs, Sampling, about
from .scores import ClipScore, UncachedSimilarity
from .store import Store

Number = TypeVar("Number", int, float)

OWN_LISTS = "own lists"
SEARCHES = {"quick": QUICK, "thorough": THOROUGH}


@dataclass(frozen=True)
class Request:
    """The inputs of the node, as it was given them; lists are texts such as "0.5, 0.75"."""

    prompts: str  # one per line
    search: str  # of SEARCHES, or OWN_LISTS
    steps: str
    low_res_scale: str
    low_res_until: str
    interval: str
    deep_cache_start: str
    start_percent: str
    min_speedup: float
    sampling: Sampling
    first_seed: int
    seeds: int
    minutes: float
    resume: bool

    def pictures(self) -> list[PromptSeed]:
        """Every prompt with the first seed, then with the next one."""
        prompts = list(dict.fromkeys(line.strip() for line in self.prompts.splitlines() if line.strip()))
        if not prompts:
            raise ValueError("prompts is empty: give one prompt per line.")
        return [PromptSeed(prompt, self.first_seed + number) for number in range(self.seeds) for prompt in prompts]

    @property
    def step_counts(self) -> tuple[int, ...]:
        """The numbers of steps to try; the largest is the stock run's."""
        found = numbers(self.steps, int, "steps")
        if min(found) < 1:
            raise ValueError(f"steps is {self.steps!r}: a run takes at least 1 step.")
        return found

    @property
    def _deep_cache_starts(self) -> tuple[float, ...]:
        """Checked here, as the deep cache would call them start_percent, which is another input of the node."""
        found = numbers(self.deep_cache_start, float, "deep_cache_start")
        if not all(0.0 <= each < 1.0 for each in found):
            raise ValueError(
                f"deep_cache_start is {self.deep_cache_start!r}: give fractions of the schedule, from 0 to less than 1."
            )
        return found

    def grid(self, model: Any, size: Size, *, ranks_resolutions: bool) -> Grid:
        """The values to combine. Where changes of resolution cannot be ranked, the family's own is taken.

        What is no list (how the resolution changes) is the family's own throughout.
        """
        steps = self.step_counts
        mixed = self._preset(model, max(steps), size).settings.mixed_resolution or MixedResolution()
        if self.search == OWN_LISTS:
            return Grid(
                steps,
                numbers(self.low_res_scale, float, "low_res_scale"),
                numbers(self.low_res_until, float, "low_res_until"),
                numbers(self.interval, int, "interval"),
                self._deep_cache_starts,
                numbers(self.start_percent, float, "start_percent"),
                mixed,
            )
        values: dict[str, Any] = dict(SEARCHES[self.search])
        if not ranks_resolutions:
            values |= {"low_res_scale": (mixed.low_res_scale,), "low_res_until": (mixed.low_res_until,)}
        return Grid(steps, **values, mixed_resolution=mixed)

    def _preset(self, model: Any, steps: int, size: Size) -> presets.Choice:
        sampling = self.sampling
        return presets.choose(
            "auto", model, sampler_name=sampling.sampler_name, cfg=sampling.cfg, steps=steps, size=size
        )


def folder() -> Path:
    """Where calibrations keep what they have drawn and scored."""
    return Path(folder_paths.get_system_user_directory("postdiff")) / "calibration"


def prepare(
    request: Request,
    model: Any,
    clip: Any,
    vae: Any,
    clip_vision: Any = None,
    score_clip: Any = None,
    on_measured: Callable[[Calibration], None] = lambda calibration: None,
) -> Calibration:
    """A calibration that is ready to run. Raises ValueError, naming the remedy, for what it cannot do."""
    if patch.carried_by(model).settings != Settings():
        raise ValueError("The model carries PostDiff settings already: connect it before those nodes, not after them.")
    pictures = request.pictures()
    runs = Runs(model, clip, vae, request.sampling, Store(folder(), about(model, clip, request.sampling)))
    stock_steps = max(request.step_counts)
    score = ClipScore(runs, clip_vision, score_clip or clip) if clip_vision else UncachedSimilarity(runs, stock_steps)
    pricing = Pricing(
        model,
        request.sampling.sampler_name,
        request.sampling.scheduler,
        request.sampling.cfg,
        runs.size,
        runs.tokens([request.sampling.negative, *(picture.prompt for picture in pictures)]),
        stock_steps,
    )
    grid = request.grid(model, runs.size, ranks_resolutions=score.ranks_resolutions)
    candidates = candidates_for(runs, score, pricing, grid, request.min_speedup)
    if not request.resume:
        runs.store.clear()
    seconds = 60 * request.minutes
    return Calibration(runs, score, pricing, candidates, pictures, seconds=seconds, on_measured=on_measured)


def examples(calibration: Calibration, result: Result) -> list[Example]:
    """The first prompts as the stock run and the chosen settings draw them; what is missing is drawn now."""
    drawn = sorted(calibration.search.scores[result.chosen.candidate])[:MAX_EXAMPLES]
    runs = calibration.runs
    return [
        Example(
            picture.prompt,
            *(as_pil(runs.image(candidate, picture)) for candidate in (calibration.stock, result.chosen.candidate)),
        )
        for picture in (calibration.pictures[index] for index in drawn)
    ]


def numbers(text: str, kind: Callable[[str], Number], name: str) -> tuple[Number, ...]:
    """The numbers of a text such as "0.5, 0.75", each once. Raises ValueError that names the input."""
    try:
        found = tuple(dict.fromkeys(kind(part) for part in text.replace(";", ",").split(",") if part.strip()))
    except ValueError:
        found = ()
    if not found:
        wanted = "whole numbers" if kind is int else "numbers"
        raise ValueError(f"{name} is {text!r}: give {wanted} with commas between them.")
    return found
