"""What a patched MODEL carries: the techniques asked for, as one OUTER_SAMPLE wrapper on a clone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from . import cfg_cutoff, cross_attn_cache, deep_cache, full_size_retry, memory, mixed_resolution, report
from .architecture import Size
from .planning import plan_run
from .run import KEY, Observer, Run, Uncopied
from .sampling_arguments import BATCH_INDEX, SamplingArguments, copied_conds
from .schedule import Settings, Technique, field_of
from .techniques import TECHNIQUE_INFO, refusal


def add(model: Any, technique: Technique, observer: Observer | None = None) -> Any:
    """A clone of MODEL with one more technique; the same technique already there is replaced, and that is noted.

    Raises ValueError, naming the model and the remedy, if the technique cannot act on it.
    """
    _check(model, technique)
    name, before = field_of(technique), carried_by(model)
    title = TECHNIQUE_INFO[name].title
    twice = f"{title} is applied twice to this model; the one closest to the sampler is used."
    replaced = getattr(before.settings, name) is not None
    changes: dict[str, Any] = {name: technique}
    return _carrying(
        model,
        Patch(
            dataclasses.replace(before.settings, **changes),
            before.observers,
            notes=(*before.notes, *([twice] if replaced else [])),
            by_name=before.by_name | {name},
        ),
        observer,
    )


def fill(model: Any, settings: Settings, observer: Observer | None = None, remarks: Sequence[str] = ()) -> Any:
    """A clone of MODEL with the techniques of `settings` (a preset) that no patch on it asked for.

    They take the place of an earlier preset's. Its runs note `remarks` on the choice, and if others hold than were
    asked for. Raises ValueError as `add` does.
    """
    before = carried_by(model)
    by_patches = {name: getattr(before.settings, name) for name in before.by_name}
    for name, technique in settings.asked.items():
        if name not in by_patches:
            _check(model, technique)
    filled = dataclasses.replace(settings, **by_patches)
    others = [TECHNIQUE_INFO[name].title for name, asked in settings.asked.items() if getattr(filled, name) != asked]
    overridden = [f"The model's own settings override the preset for: {', '.join(others)}."] if others else []
    patch = Patch(filled, before.observers, before.notes, (*remarks, *overridden), before.by_name)
    return _carrying(model, patch, observer)


def with_batch_index(model: Any, batch_index: list[int] | None) -> Any:
    """A clone of MODEL whose runs draw noise for these pictures of a larger batch; the report is on both."""
    clone = model.clone()
    clone.model_options[BATCH_INDEX] = batch_index
    return clone


def carried_by(model: Any) -> Patch:
    """What the MODEL carries; empty settings if it is not patched."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)
    return wrappers[-1] if wrappers else Patch(Settings())


class Patch(Uncopied):
    """The OUTER_SAMPLE wrapper: settings, who observes its runs, and what came of the last one. A run's state is a Run.

    `notes` are of the patches, and stay when more are added; `remarks` are of the sampler node that chose a preset.
    `by_name` are the techniques (fields of Settings) that patches asked for, not a preset.
    """

    def __init__(
        self,
        settings: Settings,
        observers: Sequence[Observer] = (),
        notes: Sequence[str] = (),
        remarks: Sequence[str] = (),
        by_name: frozenset[str] = frozenset(),
    ) -> None:
        self.settings = settings
        self.observers = tuple(observers)
        self.notes = tuple(dict.fromkeys(notes))
        self.remarks = tuple(remarks)
        self.by_name = by_name
        self.last_report: dict[str, Any] | None = None
        self.size_error: str | None = None  # why the last run gave up its low-resolution stage

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
        sampling = SamplingArguments(
            noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, kwargs
        )
        self.last_report = self.size_error = None
        if len(sigmas) < 2:  # no step
            return sampling.run_by(executor)
        guider, conds = executor.class_obj, copied_conds(executor.class_obj.conds)
        try:
            return self._run(executor, sampling)
        except full_size_retry.SizeError as error:
            failed = error.attempt
        # Outside the handler, which keeps what the failed attempt held.
        full_size_retry.begin_anew(guider, conds, sampling)
        with full_size_retry.with_remedy(failed):
            samples = self._run(executor, sampling, failed.reason)
        self.size_error = failed.reason
        return samples

    def _run(self, executor: Any, sampling: SamplingArguments, failed: str | None = None) -> torch.Tensor:
        """One attempt, at full size if one with a low-resolution stage has `failed`, which raises SizeError."""
        guider = executor.class_obj
        plan, low, notes = plan_run(self.settings, guider, sampling, failed)
        run = Run(guider, sampling.sigmas.tolist(), plan, self.observers, (*self.notes, *notes), self.remarks)
        self._install_techniques(run, sampling, low)
        with run.on(guider):
            for observer in self.observers:
                observer.on_plan(plan, run.notes)
            mixed = self.settings.mixed_resolution
            if mixed is None or low is None:
                samples = sampling.run_by(executor)
            else:
                with full_size_retry.size_errors(run, low):
                    samples = mixed_resolution.sample_in_two_stages(run, mixed, low, sampling, executor)
            run.finish()
        self.last_report = report.document(run, self.settings, sampling.size, low, batch=sampling.noise.shape[0])
        report.log_summary(self.last_report)
        for observer in self.observers:
            observer.on_report(self.last_report)
        return samples

    def _install_techniques(self, run: Run, sampling: SamplingArguments, low: Size | None) -> None:
        """Only those that act in this run: at a neutral setting nothing of a technique is there."""
        settings, acting = self.settings, run.plan.acting
        if "cfg_cutoff" in acting:
            cfg_cutoff.install(run, by_name="cfg_cutoff" in self.by_name)
        if settings.cross_attn_cache is not None and "cross_attn_cache" in acting:
            cross_attn_cache.install(run, settings.cross_attn_cache)
        if settings.deep_cache is not None and "deep_cache" in acting:
            deep_cache.install(run, settings.deep_cache)
        if acting:
            memory.install(run, settings, tuple(sampling.noise.shape), low)


def _check(model: Any, technique: Technique) -> None:
    reason = refusal(model, technique)
    if reason is not None:
        raise ValueError(reason)


def _carrying(model: Any, patch: Patch, observer: Observer | None) -> Any:
    """A clone of MODEL that carries `patch`, and one more observer besides its own."""
    if observer is not None:
        patch.observers = (*patch.observers, observer)
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    others = clone.wrappers.get(WrappersMP.OUTER_SAMPLE, {})
    # Outermost, so that what others do once a run (EasyCache's reset) happens once in each stage.
    clone.wrappers[WrappersMP.OUTER_SAMPLE] = {KEY: [patch], **others}
    return clone
