"""The state of one sampling run: where it stands, which rows of a batch belong to which branch, what is cached.

A run begins when OUTER_SAMPLE is entered and ends when it is left, whatever the reason. Its wrappers are added to the
guider's own copy of the model options, so that nothing of it outlives the run.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.k_diffusion.sampling import sample_euler
from comfy.patcher_extension import WrappersMP

from .clock import MOMENTS, Clock
from .row_tally import RowTally
from .schedule import Plan, Step, current_step

log = logging.getLogger("postdiff")

KEY = "postdiff"
ROWS = "postdiff_rows"

MOST_GRAPHS = 64

_ABSENT = object()

Role = Literal["positive", "negative"]


class Observer(Protocol):
    """Told what a run does; given by the node that patched the model."""

    def on_plan(self, plan: Plan, notes: Sequence[str]) -> None: ...
    def on_step(self, index: int) -> None: ...
    def on_report(self, report: dict[str, Any]) -> None: ...


class Branch(NamedTuple):
    """What tells one chunk of a batch from every other in the same evaluation, and is the same in the next one.

    `model_pass` counts the guider's calls of calc_cond_batch in an evaluation: PAG and SAG repeat a conditioning (and
    its uuid) in a pass of their own. `index` counts the lists of conditionings in that call: a prompt with an area is
    copied to the other list under its own uuid. `occurrence` counts the model calls for one of them: tiled diffusion
    makes a call for each tile. Where a call's rows cannot be told apart, `index` and `uuid` are those of all of them.
    """

    model_pass: int
    index: Hashable
    uuid: Hashable
    occurrence: int
    batch: int
    device: torch.device
    window: Hashable


@dataclass(frozen=True)
class Row:
    """A chunk of the batch: `span` are its rows in the tensors of this model call.

    `paired` says that exactly one positive and one negative conditioning run in this pass.
    """

    branch: Branch
    role: Role | None
    paired: bool
    span: slice


class Cached(NamedTuple):
    """Rows `span` of `tensor`, and what the technique needs to know about them."""

    tensor: torch.Tensor
    span: slice
    about: Any = None

    @property
    def rows(self) -> torch.Tensor:
        return self.tensor[self.span]


class RowCache:
    """Tensors that a model call computed, by place in the model and branch."""

    def __init__(self) -> None:
        self._entries: dict[tuple[Hashable, Branch], Cached] = {}

    def store(self, place: Hashable, rows: Sequence[Row], tensor: torch.Tensor, about: Any = None) -> None:
        """Keep `tensor` (batch first), which holds these rows in order, and nothing else."""
        start = 0
        for row in rows:
            stop = start + row.span.stop - row.span.start
            self._entries[place, row.branch] = Cached(tensor, slice(start, stop), about)
            start = stop

    def put(self, place: Hashable, branch: Branch, tensor: torch.Tensor, about: Any = None) -> None:
        """Keep `tensor` as all of what `branch` has at `place`."""
        self._entries[place, branch] = _alone(tensor, about)

    def get(self, place: Hashable, branch: Branch) -> Cached | None:
        return self._entries.get((place, branch))

    def on_any_device(self, place: Hashable, branch: Branch) -> Branch | None:
        """`branch`, or the same on another GPU where they share a batch, whichever is kept at `place`."""
        kept = [
            other for at, other in list(self._entries) if at == place and other._replace(device=branch.device) == branch
        ]
        return branch if branch in kept else next(iter(kept), None)

    def drop(self, place: Hashable, branch: Branch) -> None:
        self._entries.pop((place, branch), None)

    def clear(self) -> None:
        self._entries.clear()

    @property
    def bytes(self) -> int:
        """Memory held, counted from storages: slices of one tensor count once."""
        storages = [cached.tensor.untyped_storage() for cached in list(self._entries.values())]  # other threads store
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def keeper(rows: Sequence[Row], batch: int, *, copy: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that takes these rows out of a tensor of `batch` rows, so that the others do not stay in memory.

    If they are all of its rows, the tensor itself is kept, or a copy where someone may still write to it.
    """
    spans = [row.span for row in rows]
    if sum(span.stop - span.start for span in spans) == batch:
        return torch.clone if copy else lambda tensor: tensor
    return lambda tensor: torch.cat([tensor[span] for span in spans])


def join(parts: Sequence[Cached]) -> torch.Tensor:
    """The rows of `parts` in order, as one tensor; without a copy if they are one tensor's rows in order."""
    (tensor, span, _), position = parts[0], parts[0].span.start
    for part in parts:
        if part.tensor is not tensor or part.span.start != position:
            return torch.cat([part.rows for part in parts])
        position = part.span.stop
    return tensor[span.start : position]


class Run:
    """One run of a patched model, both stages together."""

    def __init__(
        self, guider: Any, sigmas: Sequence[float], plan: Plan, observers: Sequence[Observer], notes: Sequence[str] = ()
    ) -> None:
        self.guider = guider
        self.sigmas = tuple(sigmas)
        self.plan = plan
        self.observers = tuple(observers)
        self.notes: list[str] = []
        self.stage = plan.stage_of(0)
        self.clock = Clock()
        self.row_tally = RowTally(plan)
        self.peak_cached_bytes = 0
        self.tokens: int | None = None  # length of the prompt that the model was given first
        self.keeps_guidance = False  # where the cut-off finds no pair of prompts
        self._step = -1
        self._next_step: int | None = None  # as the sampler tells
        self._caches: list[RowCache] = []
        self._wrappers: list[tuple[str, Callable]] = []
        self._model_pass = -1
        self._pass_is_paired = False
        self._occurrences: Counter = Counter()
        self._prompts: dict[Role, set[Hashable]] = {}
        self._pass_roles: list[Role | None] = []
        self._pass_pictures = 0
        self._partners: dict[tuple[Hashable, Hashable], tuple[Hashable, Hashable]] = {}
        for note in (*notes, *plan.notes):
            self.note(note)

    @property
    def step(self) -> Step:
        """The step being evaluated."""
        return self.plan.steps[max(self._step, self.stage.start)]

    def note(self, text: str) -> None:
        """Say once, in the log and in the report, what the run does other than asked."""
        if text not in self.notes:
            self.notes.append(text)
            log.warning("PostDiff: %s", text)

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
        for kind, wrapper in (
            (WrappersMP.SAMPLER_SAMPLE, self._sample),  # innermost: sees the sigmas that the sampler gets
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.APPLY_MODEL, self._apply_model),
            *self._wrappers,
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),  # sees what the cut-off left
        ):
            comfy.patcher_extension.add_wrapper_with_key(kind, KEY, wrapper, options, is_model_options=True)
        guider.model_options = options
        try:
            with _room_for_graphs():
                yield
        finally:
            guider.model_options = original
            for cache in self._caches:
                cache.clear()
            self._wrappers.clear()  # they hold the run: a cycle would keep the patched model until garbage is collected

    def enter_stage(self, stage: range, sigmas: Sequence[float] | None = None) -> None:
        """Begin the stage made of these steps; `sigmas` from its first on, where they are not the run's own."""
        self.stage = stage
        if sigmas is not None:
            self.sigmas = (*[math.inf] * stage.start, *sigmas)

    def partner_of(self, branch: Branch) -> Branch | None:
        """The same branch of the other role, where exactly one positive and one negative conditioning ran together."""
        other = self._partners.get((branch.index, branch.uuid))
        return None if other is None else branch._replace(index=other[0], uuid=other[1])

    def measure_caches(self) -> None:
        """Keep the largest number of bytes cached at once, for the report."""
        self.peak_cached_bytes = max(self.peak_cached_bytes, sum(cache.bytes for cache in self._caches))

    def roles_of(self, conds: Sequence[Sequence[dict] | None]) -> list[Role | None]:
        """The role of each list of conditionings in a calc_cond_batch call; None for absent or unknown ones."""
        return [self._role(cond) if cond else None for cond in conds]

    def _role(self, cond: Sequence[dict]) -> Role | None:
        uuids = {entry["uuid"] for entry in cond}
        same = [role for role, prompts in self._prompts.items() if uuids == prompts]
        among = [role for role, prompts in self._prompts.items() if uuids <= prompts]  # context windows take a part
        found = same or among
        return found[0] if len(found) == 1 else None

    def _sample(self, executor, model_wrap, sigmas, extra_args, callback, *args, **kwargs):
        """Follow what the sampler tells of its steps, if that says which one the next evaluation belongs to.

        So it does for the host's euler, which evaluates once a step. Every other sampler of the host waits for the
        device in each step, so that one more read of the noise level does no harm; euler never does.
        """
        is_euler = getattr(executor.class_obj, "sampler_function", None) is sample_euler
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
        self._model_pass = -1
        self.row_tally.begin_evaluation()
        step = self._step_of(timestep)
        if step != self._step:
            self._step = step
            self.clock.begin(step, timestep.device)
            for observer in self.observers:
                observer.on_step(step)
        if not self._prompts:
            conds = self.guider.conds
            self._prompts = {
                role: {entry["uuid"] for entry in conds[role]} for role in ("positive", "negative") if conds.get(role)
            }

    def _step_of(self, timestep: torch.Tensor) -> int:
        """The step of an evaluation at this noise level (B,), which to read is to wait for the device."""
        told = self._next_step
        can_time = timestep.device.type in MOMENTS
        if can_time and told is not None and told == self._step + 1 and told in self.stage:
            return told
        return current_step(self.sigmas, float(timestep.flatten()[0]), self.stage)

    def _calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        self._model_pass += 1
        self._occurrences.clear()
        self._pass_roles = self.roles_of(conds)
        self._pass_pictures = x_in.shape[0]
        self._pass_is_paired = set(self._pass_roles) == {"positive", "negative"} and all(len(c) == 1 for c in conds)
        if self._pass_is_paired:
            one, other = ((index, cond[0]["uuid"]) for index, cond in enumerate(conds))
            self._partners.update({one: other, other: one})
        return executor(model, conds, x_in, timestep, model_options)

    def _apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        if "cond_or_uncond" in transformer_options:
            transformer_options = {**transformer_options, ROWS: self._rows(x, transformer_options)}
        if self.tokens is None and c_crossattn is not None:
            self.tokens = c_crossattn.shape[1]
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _rows(self, x: torch.Tensor, transformer_options: dict) -> tuple[Row, ...]:
        indices, uuids = transformer_options["cond_or_uncond"], transformer_options["uuids"]
        conds = list(zip(indices, uuids, strict=True))
        roles = [self._pass_roles[index] if index < len(self._pass_roles) else None for index in indices]
        self.row_tally.ran(self.step, uuids)
        window = transformer_options.get("context_window")
        window = None if window is None else tuple(window.index_list)
        batch = self._pass_pictures
        if x.shape[0] != batch * len(conds):  # another node lays them out its own way, as tiles in one batch
            branch = self._branch(tuple(indices), tuple(uuids), x.shape[0], x.device, window)
            return (Row(branch, None, False, slice(0, x.shape[0])),)
        return tuple(
            Row(
                self._branch(index, uuid, batch, x.device, window),
                role,
                self._pass_is_paired,
                slice(position * batch, (position + 1) * batch),
            )
            for position, ((index, uuid), role) in enumerate(zip(conds, roles, strict=True))
        )

    def _branch(self, index: Hashable, uuid: Hashable, batch: int, device: torch.device, window: Hashable) -> Branch:
        """The branch of the next model call for these conditionings."""
        seen = (index, uuid, device)
        self._occurrences[seen] += 1
        return Branch(self._model_pass, index, uuid, self._occurrences[seen] - 1, batch, device, window)


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
    dynamo = sys.modules.get("torch._dynamo")  # imported by whoever compiles; slow to import for nobody
    if dynamo is None:
        return contextlib.nullcontext()
    return dynamo.config.patch(cache_size_limit=max(MOST_GRAPHS, dynamo.config.cache_size_limit))


def _alone(tensor: torch.Tensor, about: Any) -> Cached:
    return Cached(tensor, slice(0, tensor.shape[0]), about)
