"""What a patched MODEL carries: the techniques asked for, as one OUTER_SAMPLE wrapper on a clone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from . import cfg_cutoff, cross_attn_cache, deep_cache, memory, mixed_resolution, report
from .architecture import Size, diffusion_model_of, sigma_at
from .mixed_resolution import Sampling, size_ratio
from .run import KEY, Observer, Run
from .schedule import (
    FEWEST_STEPS,
    TECHNIQUES,
    CFGCutoff,
    CrossAttnCache,
    DeepCache,
    MixedResolution,
    Plan,
    Settings,
    Step,
    Technique,
    plan,
    step_at_sigma,
)

BATCH_INDEX = "postdiff_batch_index"  # in the model options of a clone
FIELDS: dict[type, str] = {technique: name for name, technique in TECHNIQUES.items()}
REFUSALS: dict[type, Callable[[Any], str | None]] = {
    MixedResolution: mixed_resolution.refusal,
    DeepCache: deep_cache.refusal,
    CrossAttnCache: cross_attn_cache.refusal,
    CFGCutoff: lambda model: None,
}
PATCH_NODES: dict[type, str] = {  # as the canvas names them
    MixedResolution: "Mixed Resolution (patch)",
    DeepCache: "Deep Cache",
    CrossAttnCache: "Cross-Attention Cache",
    CFGCutoff: "CFG Cut-off",
}


def add(model: Any, technique: Technique, observer: Observer | None = None) -> Any:
    """A clone of MODEL with one more technique; the same technique already there is replaced, and that is noted.

    Raises ValueError, naming the model and the remedy, if the technique cannot act on it.
    """
    _check(model, technique)
    name = FIELDS[type(technique)]
    before = carried_by(model)
    changes: dict[str, Any] = {name: technique}
    settings = dataclasses.replace(before.settings, **changes)
    twice = getattr(before.settings, name) is not None
    notes = [f"{name} is set twice on this model; the settings nearest the sampler hold."] if twice else []
    return _carrying(model, PostDiff(settings, before.observers, (*before.notes, *notes)), observer)


def fill(model: Any, settings: Settings, observer: Observer | None = None, notes: Sequence[str] = ()) -> Any:
    """A clone of MODEL with the techniques of `settings` (a preset) that it does not carry yet.

    It is noted if others hold than were asked for, and what `notes` say. Raises ValueError as `add` does.
    """
    before = carried_by(model)
    asked = settings.asked
    missing = {name: technique for name, technique in asked.items() if getattr(before.settings, name) is None}
    for technique in missing.values():
        _check(model, technique)
    filled = dataclasses.replace(before.settings, **missing)
    others = [name for name, technique in asked.items() if getattr(filled, name) != technique]
    own = [f"Not the preset's but the model's own settings hold: {', '.join(others)}."] if others else []
    return _carrying(model, PostDiff(filled, before.observers, (*before.notes, *notes, *own)), observer)


def with_batch_index(model: Any, batch_index: list[int] | None) -> Any:
    """A clone of MODEL whose runs draw noise for these pictures of a larger batch; the report is on both."""
    clone = model.clone()
    clone.model_options[BATCH_INDEX] = batch_index
    return clone


def carried_by(model: Any) -> PostDiff:
    """What the MODEL carries; empty settings if it is not patched."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return wrappers[-1] if wrappers else PostDiff(Settings())


class PostDiff:
    """The OUTER_SAMPLE wrapper. Holds settings, observers and the last run's report; everything else lives in a Run."""

    def __init__(
        self,
        settings: Settings,
        observers: Sequence[Observer] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.settings = settings
        self.observers = tuple(observers)
        self.notes = tuple(dict.fromkeys(notes))
        self.last_report: dict[str, Any] | None = None

    def __call__(
        self,
        executor: Any,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callable | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        self.last_report = None
        sampling = Sampling(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, kwargs)
        run, low = self._plan_run(executor.class_obj, sampling)
        self._install_techniques(run, sampling, low)
        with run.on(executor.class_obj):
            for observer in self.observers:
                observer.on_plan(run.plan, run.notes)
            mixed = self.settings.mixed_resolution
            if mixed is None or low is None:
                samples = sampling.run_by(executor)
            else:
                batch_index = executor.class_obj.model_options.get(BATCH_INDEX)
                samples = mixed_resolution.sample_in_two_stages(run, mixed, low, sampling, batch_index, executor)
            run.clock.stop()
        self.last_report = report.document(run, self.settings, sampling.size, low, batch=noise.shape[0])
        report.log_summary(self.last_report)
        for observer in self.observers:
            observer.on_report(self.last_report)
        return samples

    def _plan_run(self, guider: Any, sampling: Sampling) -> tuple[Run, Size | None]:
        """The run's plan from its own sigmas, and the size of its low-resolution stage (None if it has none)."""
        sigmas = sampling.sigmas.tolist()
        notes = list(self.notes)
        if any(later >= sooner for sooner, later in pairwise(sigmas)):
            notes.append("The sigmas do not descend: the run is stock.")
            stock = Plan(tuple(Step(i, False, "off", "off", True) for i in range(len(sigmas) - 1)))
            return Run(guider, sigmas, stock, self.observers, notes), None
        low = self._low_size(guider, sampling, notes)
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        laid_out = plan(
            self.settings,
            len(sigmas) - 1,
            lambda fraction: step_at_sigma(sigmas, sigma_at(model_sampling, fraction)),
            can_lower_resolution=low is not None,
        )
        notes += self._notes_on_idle_techniques(laid_out, low)
        notes += self._notes_on_lost_guidance(laid_out, guider, sigmas[0], model_sampling)
        if low is None or not laid_out.low_res_steps:
            return Run(guider, sigmas, laid_out, self.observers, notes), None
        laid_out = dataclasses.replace(laid_out, low_res_scale=1 / size_ratio(sampling.size, low))
        return Run(guider, sigmas, laid_out, self.observers, notes), low

    def _notes_on_idle_techniques(self, laid_out: Plan, low: Size | None) -> list[str]:
        """As in img2img, or in a slice of a run, that begins after a technique's part of the schedule."""
        if len(laid_out.steps) < FEWEST_STEPS:
            return []  # the plan says so
        asked = self.settings.asked
        if low is None:
            asked.pop("mixed_resolution", None)  # noted, or off
        idle = [name for name, technique in asked.items() if not technique.is_off and name not in laid_out.acting]
        return [f"{name} does nothing here: this run has no step in its part of the schedule." for name in idle]

    def _notes_on_lost_guidance(self, laid_out: Plan, guider: Any, first_sigma: float, sampling: Any) -> list[str]:
        """As in img2img with little denoising, of which most falls into the part of the schedule without guidance."""
        cutoff, total = self.settings.cfg_cutoff, len(laid_out.steps)
        unguided = total - laid_out.guidance_stop
        if cutoff is None or cutoff.start_percent == 0.0 or getattr(guider, "cfg", None) == 1.0:
            return []
        has_most_of_the_guided_part = first_sigma > sigma_at(sampling, cutoff.start_percent / 2)
        if has_most_of_the_guided_part or 2 * unguided < total:
            return []
        return [
            f"{unguided} of {total} steps run without guidance: it stops at {cutoff.start_percent:g} of the whole "
            "schedule, and this run begins late in it. For more of the negative prompt and of cfg, put CFG Cut-off "
            "with a higher start_percent on the model."
        ]

    def _low_size(self, guider: Any, sampling: Sampling, notes: list[str]) -> Size | None:
        mixed = self.settings.mixed_resolution
        if mixed is None or mixed.is_off:
            return None
        reason = mixed_resolution.reason_against(sampling)
        if reason is not None:
            notes.append(f"All steps run at full size: {reason}.")
            return None
        diffusion_model = diffusion_model_of(guider.model_patcher)
        low, note = mixed_resolution.low_resolution(mixed, sampling.size, diffusion_model)
        if low == sampling.size:
            notes.append("All steps run at full size: the model takes no smaller latent near the size asked for.")
            return None
        notes.extend([note] if note else [])
        return low

    def _install_techniques(self, run: Run, sampling: Sampling, low: Size | None) -> None:
        """Only those that act in this run: at a neutral setting nothing of a technique is there."""
        settings, acting = self.settings, run.plan.acting
        if "cfg_cutoff" in acting:
            cfg_cutoff.install(run)
        if settings.cross_attn_cache is not None and "cross_attn_cache" in acting:
            cross_attn_cache.install(run, settings.cross_attn_cache)
        if settings.deep_cache is not None and "deep_cache" in acting:
            deep_cache.install(run, settings.deep_cache)
        if acting:
            memory.install(run, settings, tuple(sampling.noise.shape), low)


def _check(model: Any, technique: Technique) -> None:
    reason = REFUSALS[type(technique)](model)
    if reason is not None:
        others = [PATCH_NODES[kind] for kind, refusal in REFUSALS.items() if refusal(model) is None]
        raise ValueError(f"{reason} Use instead: {', '.join(others)}.")
    if isinstance(technique, DeepCache):
        deep_cache.check_depth(model, technique)


def _carrying(model: Any, postdiff: PostDiff, observer: Observer | None) -> Any:
    if observer is not None:
        postdiff.observers = (*postdiff.observers, observer)
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    others = clone.wrappers.get(WrappersMP.OUTER_SAMPLE, {})
    # Outermost, so that what others do once a run (EasyCache's reset) happens once in each stage.
    clone.wrappers[WrappersMP.OUTER_SAMPLE] = {KEY: [postdiff], **others}
    return clone
