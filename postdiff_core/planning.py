"""A run planned before it is made: what each step does under its own sigmas, and what is to be noted of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

from . import mixed_resolution
from .architecture import Size, diffusion_model_of, sigma_at, size_ratio
from .sampling_arguments import SamplingArguments
from .schedule import MIN_STEPS, CFGCutoff, Plan, Settings, plan, step_at_sigma, stock_plan
from .techniques import TECHNIQUE_INFO


class RunPlan(NamedTuple):
    """A plan, the latent size of its low-resolution steps (None if it has none), and notes on both."""

    plan: Plan
    low: Size | None
    notes: tuple[str, ...] = ()


def plan_run(settings: Settings, guider: Any, sampling: SamplingArguments, failed: str | None = None) -> RunPlan:
    """The plan of a run by this guider; all at full size if an attempt with a low-resolution stage has `failed`."""
    sigmas = sampling.sigmas.tolist()
    if any(later >= sooner for sooner, later in pairwise(sigmas)):
        note = "PostDiff is off for this run: its sigmas do not fall from step to step."
        return RunPlan(stock_plan(len(sigmas) - 1), None, (note,))
    model_sampling = guider.model_patcher.get_model_object("model_sampling")
    possible, size_note = _low_size(settings, guider, sampling, failed)
    laid_out, low = lay_out(settings, sigmas, model_sampling, sampling.size, possible)
    size_noted = size_note is not None and (possible is None or low is not None)  # not of a size that no step has
    return RunPlan(
        laid_out,
        low,
        (
            *([size_note] if size_note is not None and size_noted else []),
            *_notes_on_idle_techniques(settings, laid_out, possible),
            *_notes_on_lost_guidance(settings.cfg_cutoff, laid_out, guider, sigmas[0], model_sampling),
        ),
    )


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


def _low_size(
    settings: Settings, guider: Any, sampling: SamplingArguments, failed: str | None
) -> tuple[Size | None, str | None]:
    """The latent size that low-resolution steps would have, None if there can be none, and what to note of it."""
    mixed = settings.mixed_resolution
    if mixed is None or mixed.is_off:
        return None, None
    diffusion_model = diffusion_model_of(guider.model_patcher)
    reason = failed or mixed_resolution.reason_against(sampling, guider.conds, diffusion_model)
    if reason is not None:
        return None, f"All steps run at full size: {reason}."
    return mixed_resolution.low_resolution(mixed, sampling.size, diffusion_model)


def _notes_on_idle_techniques(settings: Settings, laid_out: Plan, possible: Size | None) -> list[str]:
    """As in img2img, or in a slice of a run, that begins after a technique's part of the schedule."""
    if len(laid_out.steps) < MIN_STEPS:
        return []  # the plan says so
    asked = settings.asked
    if possible is None:
        asked.pop("mixed_resolution", None)  # noted, or off
    idle = [name for name, technique in asked.items() if not technique.is_off and name not in laid_out.acting]
    where = "this run has no step in its part of the schedule"
    return [f"{TECHNIQUE_INFO[name].title} does nothing here: {where}." for name in idle]


def _notes_on_lost_guidance(
    cutoff: CFGCutoff | None, laid_out: Plan, guider: Any, first_sigma: float, model_sampling: Any
) -> list[str]:
    """As in img2img with little denoising, of which most falls into the part of the schedule without guidance."""
    total = len(laid_out.steps)
    unguided = total - laid_out.guidance_stop
    if cutoff is None or not unguided or cutoff.start_percent == 0.0 or getattr(guider, "cfg", None) == 1.0:
        return []
    has_most_of_the_guided_part = first_sigma > sigma_at(model_sampling, cutoff.start_percent / 2)
    if has_most_of_the_guided_part or 2 * unguided < total:
        return []
    return [
        f"{unguided} of {total} steps run without guidance: it stops at {cutoff.start_percent:g} of the whole "
        "schedule, and this run begins late in it. For more of the negative prompt and of cfg, put CFG Cut-off "
        "with a higher start_percent on the model."
    ]
