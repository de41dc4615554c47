"""What each step of a run does: section 2 of the paper as arithmetic on step numbers.

T is the number of steps, i a step in 0 ... T-1, L the number of low-resolution steps. Knows neither torch nor comfy;
`web/plan.js` holds the same arithmetic, and both are tested on tests/vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

SIGMA_TOLERANCE = 1e-4
MIN_STEPS = 3
ASPECT_WEIGHT = 3

Fraction = float
Mode = Literal["cond", "average", "uncond", "cfg"]
Deep = Literal["off", "refresh", "reuse"]
CrossAttn = Literal["off", "compute", "reuse"]

MODES: tuple[Mode, ...] = ("cond", "average", "uncond", "cfg")
SWITCHES = ("paper", "matched")
UPSCALE_METHODS = ("bilinear", "nearest-exact", "bicubic", "area", "bislerp")


@dataclass(frozen=True)
class MixedResolution:
    """Section 2.2: the steps before fraction s run at beta times the sides."""

    low_res_scale: float = 0.5  # beta
    low_res_until: Fraction = 0.5  # s
    upscale_method: str = "bilinear"
    switch: str = "paper"  # the noise levels after the switch; `matched` is this project's (mixed_resolution.py)

    def __post_init__(self) -> None:
        _require_between(self.low_res_scale, 0.25, 1.0, "low_res_scale (beta)")
        _require_between(self.low_res_until, 0.0, 1.0, "low_res_until (s)")
        _require_one_of(self.upscale_method, UPSCALE_METHODS, "upscale_method")
        _require_one_of(self.switch, SWITCHES, "switch")

    @property
    def is_off(self) -> bool:
        return self.low_res_scale == 1.0 or self.low_res_until == 0.0


@dataclass(frozen=True)
class DeepCache:
    """Section 2.5: the deep branch of the U-Net is computed every k-th step and reused in between."""

    interval: int = 2  # k
    depth: int = 2
    start_percent: Fraction = 0.0
    end_percent: Fraction = 1.0

    def __post_init__(self) -> None:
        _require_whole(self.interval, "interval (k)")
        _require_whole(self.depth, "depth")
        _require_between(self.interval, 1, 20, "interval (k)")
        _require_between(self.depth, 1, 11, "depth")
        _require_between(self.start_percent, 0.0, 1.0, "start_percent")
        _require_between(self.end_percent, 0.0, 1.0, "end_percent")
        if self.start_percent >= self.end_percent:
            raise ValueError(
                f"The deep cache window is empty: start_percent {self.start_percent:g} is not before "
                f"end_percent {self.end_percent:g}. Lower start_percent or raise end_percent."
            )

    @property
    def is_off(self) -> bool:
        return self.interval == 1


@dataclass(frozen=True)
class CrossAttnCache:
    """Section 2.5: from fraction m on, every cross-attention layer returns the output it gave before."""

    start_percent: Fraction = 0.75  # m
    mode: Mode = "cond"

    def __post_init__(self) -> None:
        _require_between(self.start_percent, 0.0, 1.0, "start_percent (m)")
        _require_one_of(self.mode, MODES, "mode")

    @property
    def is_off(self) -> bool:
        return self.start_percent == 1.0


@dataclass(frozen=True)
class CFGCutoff:
    """Section 2.5: from fraction m on, only the conditional branch runs."""

    start_percent: Fraction = 0.75  # m

    def __post_init__(self) -> None:
        _require_between(self.start_percent, 0.0, 1.0, "start_percent (m)")

    @property
    def is_off(self) -> bool:
        return self.start_percent == 1.0


Technique = MixedResolution | DeepCache | CrossAttnCache | CFGCutoff
TECHNIQUES: dict[str, Any] = {  # by their field in Settings
    "mixed_resolution": MixedResolution,
    "deep_cache": DeepCache,
    "cross_attn_cache": CrossAttnCache,
    "cfg_cutoff": CFGCutoff,
}


def field_of(technique: Technique) -> str:
    """The field of Settings that a technique belongs in."""
    return next(name for name, kind in TECHNIQUES.items() if kind is type(technique))


@dataclass(frozen=True)
class Settings:
    """The techniques asked for; None means that the technique is absent."""

    mixed_resolution: MixedResolution | None = None
    deep_cache: DeepCache | None = None
    cross_attn_cache: CrossAttnCache | None = None
    cfg_cutoff: CFGCutoff | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """The techniques that are there, by field."""
        return {name: technique for name in TECHNIQUES if (technique := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Step:
    """What one step does."""

    index: int
    low_res: bool
    deep: Deep
    cross_attn: CrossAttn
    guided: bool

    def document(self) -> dict[str, str]:
        """The step in the words that the canvas and the report share."""
        return {
            "stage": "low" if self.low_res else "full",
            "deep": self.deep,
            "xattn": self.cross_attn,
            "cfg": "on" if self.guided else "off",
        }


@dataclass(frozen=True)
class Plan:
    """The steps of one run, and what had to be changed about the wish."""

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()
    low_res_scale: float = 1.0  # of the low-resolution steps' sides, as run

    @property
    def acting(self) -> frozenset[str]:
        """The techniques that change a step, by their field in Settings."""
        acts = {
            "mixed_resolution": any(step.low_res for step in self.steps),
            "deep_cache": any(step.deep == "reuse" for step in self.steps),
            "cross_attn_cache": any(step.cross_attn == "reuse" for step in self.steps),
            "cfg_cutoff": not all(step.guided for step in self.steps),
        }
        return frozenset(name for name, does in acts.items() if does)

    @property
    def low_res_steps(self) -> int:
        """L, the length of the low-resolution stage."""
        return sum(step.low_res for step in self.steps)

    @property
    def cross_attn_start(self) -> int:
        """c, the first step that reuses cross-attention (T if none does)."""
        return next((step.index for step in self.steps if step.cross_attn == "reuse"), len(self.steps))

    @property
    def guidance_stop(self) -> int:
        """The first step without guidance (T if all are guided)."""
        return next((step.index for step in self.steps if not step.guided), len(self.steps))

    def stage_of(self, index: int) -> range:
        """The steps of the stage that step `index` belongs to."""
        low = self.low_res_steps
        return range(low) if index < low else range(low, len(self.steps))

    def deep_feature_is_reused_after(self, index: int) -> bool:
        """Whether a deep feature computed in step `index` serves the step after it."""
        following = index + 1
        return following in self.stage_of(index) and self.steps[following].deep == "reuse"

    def negative_deep_feature_is_reused_after(self, index: int) -> bool:
        """Whether the step after `index` has a negative prompt to reuse its deep feature for."""
        return self.steps[min(index + 1, len(self.steps) - 1)].guided

    def negative_cross_attn_is_reused_after(self, index: int, mode: Mode) -> bool:
        """Whether what cross-attention gave the negative prompt in step `index` is reused, or mixed into what is."""
        return mode != "cond" or self.guidance_stop > max(self.cross_attn_start, index)

    def cross_attn_is_recorded_in(self, index: int) -> bool:
        """Whether step `index` can hold a layer's latest output before c.

        The last step before c that runs every layer is where the deep ones gave theirs; later ones run the shallow
        layers only.
        """
        start = self.cross_attn_start
        if start == len(self.steps):
            return False
        last_full = next((i for i in reversed(range(start)) if self.steps[i].deep != "reuse"), 0)
        return last_full <= index < start


def plan(
    settings: Settings, total: int, reached: Callable[[Fraction], int], *, can_lower_resolution: bool = True
) -> Plan:
    """Lay out a run of `total` steps (T, both stages together).

    `reached(p)` is the first step at which fraction p of the run is reached, T if none is: `step_at_sigma` for a
    run's own sigmas, `step_at_uniform_timesteps` for an estimate. `can_lower_resolution` is false where stage 1
    would have the full size.
    """
    if total < MIN_STEPS:
        note = f"The run has fewer than {MIN_STEPS} steps ({total}): it runs without PostDiff."
        return stock_plan(total, () if settings == Settings() else (note,))
    low_res_steps, notes = 0, ()
    if can_lower_resolution:
        low_res_steps, notes = _low_res_steps(settings.mixed_resolution, total, reached)
    cross_attn, cutoff = settings.cross_attn_cache, settings.cfg_cutoff
    reuse_from = max(1, reached(cross_attn.start_percent)) if cross_attn else total  # step 0 has nothing to reuse
    unguided_from = reached(cutoff.start_percent) if cutoff else total
    deep = _deep_cache_states(settings.deep_cache, total, low_res_steps, reached)
    steps = tuple(
        Step(
            index=i,
            low_res=i < low_res_steps,
            deep=deep[i],
            cross_attn="off" if cross_attn is None else "reuse" if i >= reuse_from else "compute",
            guided=i < unguided_from,
        )
        for i in range(total)
    )
    return Plan(steps, notes)


def stock_plan(total: int, notes: tuple[str, ...] = ()) -> Plan:
    """A run of `total` steps that all compute everything, at full size and with guidance."""
    return Plan(tuple(Step(i, low_res=False, deep="off", cross_attn="off", guided=True) for i in range(total)), notes)


def step_at_sigma(sigmas: Sequence[float], threshold: float) -> int:
    """The first step whose sigma is at or below `threshold`; T = len(sigmas) - 1 if none is."""
    total = len(sigmas) - 1
    return next((i for i in range(total) if sigmas[i] <= threshold * (1 + SIGMA_TOLERANCE)), total)


def step_at_uniform_timesteps(total: int, fraction: Fraction) -> int:
    """The first step i with i >= p*T: what `step_at_sigma` gives under uniform timesteps, the paper's case."""
    return min(total, math.ceil(fraction * total * (1 - SIGMA_TOLERANCE)))


def current_step(sigmas: Sequence[float], sigma: float, stage: range) -> int:
    """The step that an evaluation at `sigma` belongs to, clamped to its stage.

    Samplers evaluate between two sigmas too (heun, dpmpp_sde): such an evaluation belongs to the step it started
    from, one exactly at the next sigma to the next step.
    """
    passed = sum(later >= sigma * (1 - SIGMA_TOLERANCE) for later in sigmas[1:])
    return min(max(passed, stage.start), stage.stop - 1)


def low_size(height: int, width: int, scale: float, multiple: int, smallest_mean: int = 0) -> tuple[int, int]:
    """Latent sides of stage 1: of the multiples of `multiple`, those least off from beta times the sides.

    To be off in the aspect ratio, which squashes the picture, counts `ASPECT_WEIGHT` times. The full size if nothing
    smaller is as near, or has a mean side of `smallest_mean`.
    """

    def error(size: tuple[int, int]) -> float:
        tall, broad = size[0] / height, size[1] / width
        return ASPECT_WEIGHT * abs(math.log(tall / broad)) + abs(math.log(math.sqrt(tall * broad) / scale))

    sizes = [(height, width)]
    for low_height in range(multiple, height + 1, multiple):
        units = low_height * width / height / multiple
        widths = {multiple * math.floor(units), multiple * math.ceil(units)}
        sizes += [(low_height, low_width) for low_width in sorted(widths) if multiple <= low_width <= width]
    fitting = [size for size in sizes if sum(size) // 2 >= smallest_mean]
    return min(fitting, key=error, default=(height, width))


def _low_res_steps(
    mixed: MixedResolution | None, total: int, reached: Callable[[Fraction], int]
) -> tuple[int, tuple[str, ...]]:
    if mixed is None or mixed.is_off:
        return 0, ()
    wished = reached(mixed.low_res_until)
    # Stage 2 keeps two steps: some samplers never call the model in a stage of one.
    most = total - 2
    if wished <= most:
        return wished, ()
    return most, (f"low_res_until asks for {wished} of {total} steps; {most} run at low resolution, two remain.",)


def _deep_cache_states(
    cache: DeepCache | None, total: int, low_res_steps: int, reached: Callable[[Fraction], int]
) -> list[Deep]:
    states: list[Deep] = ["off"] * total
    if cache is None or cache.is_off:
        return states
    start, end = reached(cache.start_percent), reached(cache.end_percent)
    for i in range(start, end):
        stage_start = 0 if i < low_res_steps else low_res_steps
        phase_start = max(start, stage_start)
        states[i] = "refresh" if (i - phase_start) % cache.interval == 0 else "reuse"
    return states


def _require_between(value: float, low: float, high: float, name: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must lie between {low:g} and {high:g}.")


def _require_whole(value: int, name: str) -> None:
    if not isinstance(value, int):
        raise ValueError(f"{name} is {value!r}; it must be a whole number.")


def _require_one_of(value: str, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
