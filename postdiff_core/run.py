"""The state of one sampling run: where it stands, what is cached, and the wrappers by which it is followed.

A run begins when OUTER_SAMPLE is entered and ends when it is left, whatever the reason. Its wrappers are added to the
guider's own copy of the model options, so that nothing of it outlives the run.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import comfy.k_diffusion.sampling
import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.patcher_extension import WrappersMP

from .architecture import is_compiled
from .branches import Branches, Chunk
from .clock import MOMENTS, Clock
from .row_cache import RowCache
from .row_tally import RowTally
from .schedule import Plan, Step, current_step

log = logging.getLogger("postdiff")

KEY = "postdiff"
CHUNKS = "postdiff_chunks"

ROOM_FOR_GRAPHS = 64

_ABSENT = object()


class Observer(Protocol):
    """Told what a run does; given by the node that patched the model."""

    def on_plan(self, plan: Plan, notes: Sequence[str]) -> None: ...
    def on_step(self, index: int) -> None: ...
    def on_report(self, report: dict[str, Any]) -> None: ...


class Uncopied:
    """Stays the same object under `copy.deepcopy`: nodes that deep-copy model options would copy the model too."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _StandIn(Uncopied):
    """A wrapper for the length of a run. Other packs keep the transformer options that they saw last, and with them
    would keep all that the wrapper holds, the model too."""

    def __init__(self, wrapper: Callable) -> None:
        self.wrapper: Callable | None = wrapper

    def __call__(self, executor: Callable, *args: Any, **kwargs: Any) -> Any:
        return executor(*args, **kwargs) if self.wrapper is None else self.wrapper(executor, *args, **kwargs)


class Run:
    """One run of a patched model, both stages together."""

    def __init__(
        self,
        guider: Any,
        sigmas: Sequence[float],
        plan: Plan,
        observers: Sequence[Observer],
        notes: Sequence[str] = (),
        remarks: Sequence[str] = (),
    ) -> None:
        self.guider = guider
        self.sigmas = tuple(sigmas)
        self.plan = plan
        self.observers = tuple(observers)
        self.notes: list[str] = []
        self.stage = plan.stage_of(0)
        self.clock = Clock()
        self.branches = Branches()
        self.row_tally = RowTally(plan)
        self.peak_cached_bytes = 0
        self.tokens: int | None = None  # length of the prompt that the model was given first
        self._sees_chunks = False  # of model calls
        self._asks_for_guidance: dict[int, bool] = {}  # by step: for more than the positive prompt
        self.keeps_guidance = False  # the cut-off finds no pair of prompts
        self._step = -1
        self._next_step: int | None = None  # as the sampler tells
        self._evaluations = 0  # begun in this stage
        self._caches: list[RowCache] = []
        self._wrappers: list[tuple[str, Callable]] = []
        self._asked_at_end: list[Callable[[], str | None]] = []
        self._window_calls = Counter[bool]()  # that were to reuse, by whether what they needed was there
        # Of a diffusion model, of which several GPUs have one each; to look takes milliseconds on large ones.
        self.is_compiled = functools.cache(is_compiled)
        for remark in remarks:
            self.note(remark, logging.INFO)
        for note in (*notes, *plan.notes):
            self.note(note)

    @property
    def step(self) -> Step:
        """The step being evaluated."""
        return self.plan.steps[max(self._step, self.stage.start)]

    @property
    def sigma(self) -> float:
        """The noise level at which the step begins, read of no tensor, which would wait for the device."""
        return self.sigmas[self.step.index]

    @property
    def has_guidance(self) -> bool:
        """Whether any evaluation asked for more than the positive prompt; at cfg 1 the host leaves the rest out."""
        return any(self._asks_for_guidance.values())

    def is_guided(self, step: Step) -> bool:
        """Whether guidance ran in this step, as it turned out; other nodes may stop it too."""
        asked = self._asks_for_guidance.get(step.index, self.has_guidance)  # a step may have been left out
        return asked and (step.guided or self.keeps_guidance)

    def keep_guidance(self, reason: str) -> None:
        """Guidance goes on to the end, though the plan drops it."""
        self.keeps_guidance = True
        self.note(reason)

    def note(self, text: str, level: int = logging.WARNING) -> None:
        """Say once, in the log and in the report, what the run does other than asked."""
        if text not in self.notes:
            self.notes.append(text)
            log.log(level, "PostDiff: %s", text)

    def count_window(self, chunks: Sequence[Chunk], *, is_there: bool) -> None:
        """Of a model call that was to reuse: whether it found what it needed. It cannot in windows that move."""
        if any(chunk.branch.window is not None for chunk in chunks):
            self._window_calls[is_there] += 1

    def note_at_end(self, find: Callable[[], str | None]) -> None:
        """Have the end of the run note what `find` then says: what shows only once all steps are done."""
        self._asked_at_end.append(find)

    def new_cache(self) -> RowCache:
        """A cache that is emptied when the run ends."""
        cache = RowCache()
        self._caches.append(cache)
        return cache

    def add_wrapper(self, kind: str, wrapper: Callable) -> None:
        """Add a wrapper (WrappersMP kind) for the length of this run; the first added is the outermost."""
        self._wrappers.append((kind, wrapper))

    @contextlib.contextmanager
    def on(self, guider: Any) -> Iterator[None]:
        """Put the run's wrappers on the guider's model options, and take them off again."""
        original = guider.model_options
        options = comfy.model_patcher.create_model_options_clone(original)
        stand_ins = []
        for kind, wrapper in (
            (WrappersMP.SAMPLER_SAMPLE, self._sample),  # inside others': sees the sigmas that the sampler gets
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.APPLY_MODEL, self._apply_model),
            (WrappersMP.CALC_COND_BATCH, self._look_for_guidance),  # sees what the guider asks for
            *self._wrappers,
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),  # sees what the cut-off left
        ):
            stand_ins.append(_StandIn(wrapper))
            comfy.patcher_extension.add_wrapper_with_key(kind, KEY, stand_ins[-1], options, is_model_options=True)
        guider.model_options = options
        try:
            with _room_for_graphs():
                yield
        finally:
            guider.model_options = original
            for cache in self._caches:
                cache.clear()
            # They hold the run: a cycle would keep the patched model until garbage is collected.
            for stand_in in stand_ins:
                stand_in.wrapper = None
            self._wrappers.clear()
            self._asked_at_end.clear()

    @property
    def is_first_of_stage(self) -> bool:
        """Whether no evaluation of this stage has been followed by another yet."""
        return self._evaluations <= 1

    def enter_stage(self, stage: range, sigmas: Sequence[float] | None = None) -> None:
        """Begin the stage made of these steps; `sigmas` from its first on, where they are not the run's own."""
        self.stage = stage
        self._evaluations = 0
        if sigmas is not None:
            self.sigmas = (*[math.inf] * stage.start, *sigmas)

    def finish(self) -> None:
        """The last step is done."""
        self.clock.stop()
        evaluated = self._step >= 0  # a sampler (RES4LYF's, in a further cycle) may have nothing left to do
        if evaluated and not self._sees_chunks and {"deep_cache", "cross_attn_cache"} & self.plan.acting:
            self.note(
                "A node calls the model without saying which prompt each row is for, or past this run (Automatic CFG's "
                "attention modifiers): nothing was reused."
            )
        if missed := self._window_calls[False]:
            self.note(
                f"Context windows that move from step to step: {missed} of {self._window_calls.total()} model calls "
                "that were to reuse found nothing of their frames and computed everything. The plan and the work saved "
                "do not show it."
            )
        for find in self._asked_at_end:
            if (text := find()) is not None:
                self.note(text)

    def measure_caches(self) -> None:
        """Keep the largest number of bytes cached at once, for the report."""
        self.peak_cached_bytes = max(self.peak_cached_bytes, sum(cache.bytes for cache in self._caches))

    def _sample(self, executor, model_wrap, sigmas, extra_args, callback, *args, **kwargs):
        """Follow what the sampler tells of its steps, if that says which one the next evaluation belongs to.

        So it does for the host's euler, which evaluates once a step. Every other sampler of the host waits for the
        device in each step, so that one more read of the noise level does no harm; euler never does.
        """
        # Looked up here: other packs load ComfyUI's module anew to add samplers, and its functions are others then.
        is_euler = getattr(executor.class_obj, "sampler_function", None) is comfy.k_diffusion.sampling.sample_euler
        is_told = is_euler and len(sigmas) - 1 == len(self.stage)
        self._next_step = self.stage.start if is_told else None

        def done(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
            if is_told:
                self._next_step = self.stage.start + step + 1
            if callback is not None:
                callback(step, denoised, x, total)

        return executor(model_wrap, sigmas, extra_args, done, *args, **kwargs)

    def _predict_noise(self, executor, x, timestep, model_options, seed=None):
        self._begin_evaluation(timestep)
        return executor(x, timestep, model_options, seed)

    def _begin_evaluation(self, timestep: torch.Tensor) -> None:
        self._evaluations += 1
        self.branches.begin_evaluation(self.guider.conds)
        self.row_tally.begin_evaluation()
        step = self._step_of(timestep)
        if step != self._step:
            self._step = step
            self.clock.begin(step, timestep.device)
            for observer in self.observers:
                observer.on_step(step)

    def _step_of(self, timestep: torch.Tensor) -> int:
        """The step of an evaluation at this noise level (B,).

        Reading that waits for the device, so the sampler's own count is used where it can be trusted.
        """
        told = self._next_step
        can_time = timestep.device.type in MOMENTS
        if can_time and told is not None and told == self._step + 1 and told in self.stage:
            return told
        return current_step(self.sigmas, float(timestep.flatten()[0]), self.stage)

    def _look_for_guidance(self, executor, model, conds, x_in, timestep, model_options):
        asked = [cond for cond in conds if cond is not None]
        is_asked_for = len(asked) > 1 or "negative" in self.branches.roles_of(conds)
        self._asks_for_guidance[self._step] = is_asked_for or self._asks_for_guidance.get(self._step, False)
        return executor(model, conds, x_in, timestep, model_options)

    def _calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        self.branches.begin_pass(conds, pictures=x_in.shape[0])
        return executor(model, conds, x_in, timestep, model_options)

    def _apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        if transformer_options.keys() >= {"cond_or_uncond", "uuids"}:
            self._sees_chunks = True
            self.row_tally.ran(self.step, self.branches.conditionings(transformer_options))
            transformer_options = {**transformer_options, CHUNKS: self.branches.chunks(x, transformer_options)}
        if self.tokens is None and c_crossattn is not None:
            self.tokens = c_crossattn.shape[1]
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


@contextlib.contextmanager
def replaced(attributes: dict[tuple[torch.nn.Module, str], Any]) -> Iterator[None]:
    """Give instances other attributes, usually methods, for the length of one model call.

    torch.compile guards on them, so that each kind of step gets a graph of its own; what travels in the transformer
    options it would not notice (the host's compile node leaves those out of the guards).
    """
    before = {place: place[0].__dict__.get(place[1], _ABSENT) for place in attributes}
    try:
        for (module, name), attribute in attributes.items():
            module.__dict__[name] = attribute
        yield
    finally:
        for (module, name), attribute in before.items():
            if attribute is _ABSENT:
                module.__dict__.pop(name, None)
            else:
                module.__dict__[name] = attribute


def _room_for_graphs() -> contextlib.AbstractContextManager:
    """Let torch.compile keep a graph for each kind of step at several sizes.

    It keeps 8 of a function by default, and runs what does not fit any of them uncompiled from then on.
    """
    dynamo = sys.modules.get("torch._dynamo")  # whoever compiles has imported it, which takes a while
    if dynamo is None:
        return contextlib.nullcontext()
    return dynamo.config.patch(cache_size_limit=max(ROOM_FOR_GRAPHS, dynamo.config.cache_size_limit))
