"""What the caches will hold, told to ComfyUI before it decides how much of the model stays loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import comfy.model_management
from comfy.patcher_extension import WrappersMP, get_all_wrappers

from . import cross_attn_sites, deep_cache
from .architecture import Size, whole_module
from .run import Run
from .schedule import Plan, Settings


class Rows(NamedTuple):
    """Rows of a guider's conditionings that one step evaluates for one picture."""

    positive: int
    every: int


ONE_PROMPT = Rows(positive=1, every=2)


def install(run: Run, settings: Settings, full_shape: tuple[int, ...], low: Size | None) -> None:
    """Make ComfyUI plan both stages of a run for the full size and for what the caches hold."""
    pictures, *_, height, width = full_shape

    @cache
    def held_bytes(base: Any, rows: Rows) -> int:
        diffusion_model = whole_module(base.diffusion_model)
        values = cached_values(diffusion_model, run.plan, settings, (height, width), low, rows) * pictures
        return values * comfy.model_management.dtype_size(base.get_dtype_inference())

    loaded: list[tuple[list[Any], list[int]]] = []  # models beside the main one, and bytes of all, after stage 1

    def wrapper(executor: Callable, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        base = model.model
        if loaded and _needs_nothing_else(model, kwargs.get("model_options")):
            others, sizes = loaded[0]
            if _are_still_loaded([model, *others], sizes):
                return base, conds, others
        full = (height, width)
        sides = zip(noise_shape[-2:], low if run.step.low_res and low else full, full, strict=True)
        # A side that is not the stage's is that of a context window, which is evaluated alone.
        planned = [*noise_shape[:-2], *(whole if side == staged else side for side, staged, whole in sides)]
        # The host takes no bytes here, only a shape, and counts memory in proportion to it.
        if required := base.memory_required(planned):  # none is counted for an engine (TensorRT)
            planned[-1] = math.ceil(planned[-1] * (1 + held_bytes(base, most_rows(conds, settings)) / required))
        prepared = executor(model, planned, conds, *args, **kwargs)
        others = prepared[2]
        loaded[:] = [(others, [each.loaded_size() for each in (model, *others)])]
        return prepared

    run.add_wrapper(WrappersMP.PREPARE_SAMPLING, wrapper)


def _are_still_loaded(models: list[Any], sizes: list[int]) -> bool:
    """Whether stage 2 finds as much as stage 1 loaded. To load it again takes long where weights are streamed."""
    there = comfy.model_management.loaded_models()
    return all(
        any(model is other for other in there) and (model.is_dynamic() or model.loaded_size() >= size)
        for model, size in zip(models, sizes, strict=True)
    )


def _needs_nothing_else(model: Any, model_options: dict[str, Any] | None) -> bool:
    """Whether loading is all there is to do before a stage: not what another node wraps it in, or for a second GPU."""
    if model_options is None or model.get_additional_models_with_key("multigpu"):
        return False
    return len(get_all_wrappers(WrappersMP.PREPARE_SAMPLING, model_options, is_model_options=True)) == 1


def most_rows(conds: Mapping[str, Sequence[dict[str, Any]] | None], settings: Settings) -> Rows:
    """The most rows of a guider's conditionings that are kept at one time; those with an area count as whole ones."""
    start = settings.cross_attn_cache.start_percent if settings.cross_attn_cache else 1.0
    most = {role: _most_at_once(entries or (), start) for role, entries in conds.items()}
    every = sum(most.values())
    is_pair = {role for role, rows in most.items() if rows} <= {"positive", "negative"}
    return Rows(most.get("positive", 0) if is_pair else every, every)  # other guiders the cut-off leaves alone


def _most_at_once(conds: Sequence[dict[str, Any]], start: float) -> int:
    """How many conditionings are in force together; from `start` on, what is kept of one outlives it."""
    ranges = [
        (
            max(cond.get("start_percent", 0.0), cond.get("clip_start_percent", 0.0)),
            min(cond.get("end_percent", 1.0), cond.get("clip_end_percent", 1.0)),
        )
        for cond in conds
    ]
    together = max((sum(first <= begin <= last for first, last in ranges) for begin, _ in ranges), default=0)
    return max(together, sum(last >= start for _, last in ranges))


def cached_values(
    diffusion_model: Any, plan: Plan, settings: Settings, size: Size, low: Size | None, rows: Rows = ONE_PROMPT
) -> int:
    """The most numbers that the caches hold at once for one picture, if so many rows run while guidance is on.

    `size` and `low` are latent (height, width). Multiply by the batch and by the bytes of the model's number format.
    """
    cross_attn_values = cache(partial(cross_attn_sites.output_size, diffusion_model))
    most, feature = 0, 0
    for step in plan.steps:
        latent = low if step.low_res and low else size
        if settings.deep_cache is None or step.deep == "off":
            feature = 0
        elif step.deep == "refresh":
            feature = _rows_reused_after(plan, step.index, rows) * deep_cache.feature_size(
                diffusion_model, settings.deep_cache.depth, latent
            )
        kept = _cross_attn_rows(plan, settings, step.index, rows)
        most = max(most, feature + (kept * cross_attn_values(latent) if kept else 0))
    return most


def _rows_reused_after(plan: Plan, index: int, rows: Rows) -> int:
    """Rows of the deep feature that step `index` leaves for the next."""
    if not plan.deep_feature_is_reused_after(index):
        return 0
    return rows.every if plan.negative_deep_feature_is_reused_after(index) else rows.positive


def _cross_attn_rows(plan: Plan, settings: Settings, index: int, rows: Rows) -> int:
    """Rows of every cross-attention layer's output that are kept in step `index`."""
    cross_attn, start = settings.cross_attn_cache, plan.cross_attn_start
    if cross_attn is None or not (plan.cross_attn_is_recorded_in(index) or index >= start):
        return 0
    return rows.every if plan.negative_cross_attn_is_reused_after(start, cross_attn.mode) else rows.positive
