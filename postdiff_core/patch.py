"""What a patched MODEL carries: the techniques asked for, as one OUTER_SAMPLE wrapper on a clone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP

from . import cfg_cutoff, cross_attn_cache, deep_cache, full_size_instead, memory, mixed_resolution, report
from .architecture import Size, diffusion_model_of, sigma_at
from .layout import lay_out
from .run import KEY, Observer, Run, Uncopied
from .sampling_arguments import BATCH_INDEX, SamplingArguments, copied_conds
from .schedule import FEWEST_STEPS, DeepCache, Plan, Settings, Technique, field_of, stock_plan


class Kind(NamedTuple):
    """What there is to say of a technique before it runs."""

    node: str  # as the canvas names its patch
    refusal: Callable[[Any], str | None]  # why it cannot act on a MODEL; None if it can

    @property
    def title(self) -> str:
        """As the canvas names the technique, wherever it was asked for."""
        return self.node.removesuffix(" (patch)")


KINDS = {  # by their field in Settings
    "mixed_resolution": Kind("Mixed Resolution (patch)", mixed_resolution.refusal),
    "deep_cache": Kind("Deep Cache", deep_cache.refusal),
    "cross_attn_cache": Kind("Cross-Attention Cache", cross_attn_cache.refusal),
    "cfg_cutoff": Kind("CFG Cut-off", lambda model: None),
}


def add(model: Any, technique: Technique, observer: Observer | None = None) -> Any:
    """A clone of MODEL with one more technique; the same technique already there is replaced, and that is noted.

    Raises ValueError, naming the model and the remedy, if the technique cannot act on it.
    """
    name, before = field_of(technique), carried_by(model).settings
    _check(model, name, technique)
    changes: dict[str, Any] = {name: technique}
    twice = getattr(before, name) is not None
    notes = (
        [f"{KINDS[name].title} is applied twice to this model; the one closest to the sampler is used."]
        if twice
        else []
    )
    return _carrying(model, dataclasses.replace(before, **changes), observer, notes)


def fill(model: Any, settings: Settings, observer: Observer | None = None, notes: Sequence[str] = ()) -> Any:
    """A clone of MODEL with the techniques of `settings` (a preset) that it does not carry yet.

    It is noted if others hold than were asked for, and what `notes` say. Raises ValueError as `add` does.
    """
    before, asked = carried_by(model).settings, settings.asked
    missing = {name: technique for name, technique in asked.items() if getattr(before, name) is None}
    for name, technique in missing.items():
        _check(model, name, technique)
    filled = dataclasses.replace(before, **missing)
    others = [KINDS[name].title for name, technique in asked.items() if getattr(filled, name) != technique]
    own = [f"The model's own settings override the preset for: {', '.join(others)}."] if others else []
    return _carrying(model, filled, observer, (*notes, *own))


def with_batch_index(model: Any, batch_index: list[int] | None) -> Any:
    """A clone of MODEL whose runs draw noise for these pictures of a larger batch; the report is on both."""
    clone = model.clone()
    clone.model_options[BATCH_INDEX] = batch_index
    return clone


def carried_by(model: Any) -> PostDiff:
    """What the MODEL carries; empty settings if it is not patched."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return wrappers[-1] if wrappers else PostDiff(Settings())


class PostDiff(Uncopied):
    """The OUTER_SAMPLE wrapper. Holds settings, observers and what came of the last run; all else lives in a Run."""

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
        self.size_error: str | None = None  # why the last run gave its low-resolution stage up

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
        self.last_report = self.size_error = None
        if len(sigmas) < 2:  # no step
            return executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
        sampling = SamplingArguments(
            noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, kwargs
        )
        guider, conds = executor.class_obj, copied_conds(executor.class_obj.conds)
        try:
            return self._run(executor, sampling)
        except full_size_instead.SizeError as error:
            failed = str(error)
        # Outside the handler, which keeps what the failed attempt held.
        full_size_instead.begin_anew(guider, conds, sampling)
        with full_size_instead.remedy_named(failed):
            samples = self._run(executor, sampling, failed)
        self.size_error = failed
        return samples

    def _run(self, executor: Any, sampling: SamplingArguments, failed: str | None = None) -> torch.Tensor:
        """One attempt, at full size if one with a low-resolution stage has `failed`, which raises SizeError."""
        run, low = self._plan_run(executor.class_obj, sampling, failed)
        self._install_techniques(run, sampling, low)
        with run.on(executor.class_obj):
            for observer in self.observers:
                observer.on_plan(run.plan, run.notes)
            mixed = self.settings.mixed_resolution
            if mixed is None or low is None:
                samples = sampling.run_by(executor)
            else:
                with full_size_instead.size_errors(low):
                    samples = mixed_resolution.sample_in_two_stages(run, mixed, low, sampling, executor)
            run.clock.stop()
        if not run.sees_chunks and {"deep_cache", "cross_attn_cache"} & set(run.plan.acting):
            run.note("A node calls the model without its transformer options: nothing was reused.")
        self.last_report = report.document(run, self.settings, sampling.size, low, batch=sampling.noise.shape[0])
        report.log_summary(self.last_report)
        for observer in self.observers:
            observer.on_report(self.last_report)
        return samples

    def _plan_run(self, guider: Any, sampling: SamplingArguments, failed: str | None) -> tuple[Run, Size | None]:
        """The run's plan from its own sigmas, and the size of its low-resolution stage (None if it has none)."""
        sigmas = sampling.sigmas.tolist()
        notes = list(self.notes)
        if any(later >= sooner for sooner, later in pairwise(sigmas)):
            notes.append("PostDiff is off for this run: its sigmas do not fall from step to step.")
            return Run(guider, sigmas, stock_plan(len(sigmas) - 1), self.observers, notes), None
        possible, note = self._low_size(guider, sampling, failed)
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        laid_out, low = lay_out(self.settings, sigmas, model_sampling, sampling.size, possible)
        if note is not None and (possible is None or low is not None):  # not of a size that no step runs at
            notes.append(note)
        notes += self._notes_on_idle_techniques(laid_out, possible)
        notes += self._notes_on_lost_guidance(laid_out, guider, sigmas[0], model_sampling)
        return Run(guider, sigmas, laid_out, self.observers, notes), low

    def _notes_on_idle_techniques(self, laid_out: Plan, low: Size | None) -> list[str]:
        """As in img2img, or in a slice of a run, that begins after a technique's part of the schedule."""
        if len(laid_out.steps) < FEWEST_STEPS:
            return []  # the plan says so
        asked = self.settings.asked
        if low is None:
            asked.pop("mixed_resolution", None)  # noted, or off
        idle = [name for name, technique in asked.items() if not technique.is_off and name not in laid_out.acting]
        where = "this run has no step in its part of the schedule"
        return [f"{KINDS[name].title} does nothing here: {where}." for name in idle]

    def _notes_on_lost_guidance(
        self, laid_out: Plan, guider: Any, first_sigma: float, model_sampling: Any
    ) -> list[str]:
        """As in img2img with little denoising, of which most falls into the part of the schedule without guidance."""
        cutoff, total = self.settings.cfg_cutoff, len(laid_out.steps)
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

    def _low_size(self, guider: Any, sampling: SamplingArguments, failed: str | None) -> tuple[Size | None, str | None]:
        """The latent size that low-resolution steps would have, None if there can be none, and what to note of it."""
        mixed = self.settings.mixed_resolution
        if mixed is None or mixed.is_off:
            return None, None
        diffusion_model = diffusion_model_of(guider.model_patcher)
        reason = failed or mixed_resolution.reason_against(sampling, guider.conds, diffusion_model)
        if reason is not None:
            return None, f"All steps run at full size: {reason}."
        return mixed_resolution.low_resolution(mixed, sampling.size, diffusion_model)

    def _install_techniques(self, run: Run, sampling: SamplingArguments, low: Size | None) -> None:
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


def _check(model: Any, name: str, technique: Technique) -> None:
    reason = KINDS[name].refusal(model)
    if reason is not None:
        others = [kind.node for kind in KINDS.values() if kind.refusal(model) is None]
        raise ValueError(f"{reason} Use instead: {', '.join(others)}.")
    if isinstance(technique, DeepCache):
        deep_cache.check_depth(model, technique)


def _carrying(model: Any, settings: Settings, observer: Observer | None, notes: Sequence[str]) -> Any:
    """A clone of MODEL with these settings, and one more observer and the notes besides those it carries."""
    before = carried_by(model)
    observers = before.observers if observer is None else (*before.observers, observer)
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    others = clone.wrappers.get(WrappersMP.OUTER_SAMPLE, {})
    # Outermost, so that what others do once a run (EasyCache's reset) happens once in each stage.
    clone.wrappers[WrappersMP.OUTER_SAMPLE] = {KEY: [PostDiff(settings, observers, (*before.notes, *notes))], **others}
    return clone
