"""Deep cache (section 2.5 of the paper, after DeepCache): the deep branch of the U-Net every k-th step.

A refresh step keeps what enters the first of the last `depth` output blocks. A reuse step runs the host's own forward
on the first and last `depth` blocks, with that feature in place of everything between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrapperExecutor, WrappersMP

from .run import ROWS, Row, RowCache, Run, join
from .schedule import DeepCache

PLACE = "deep feature"


def check(model: Any, settings: DeepCache) -> None:
    """Raise ValueError, naming the remedy, if the deep cache cannot act on this MODEL."""
    diffusion_model = model.get_model_object("diffusion_model")
    name = type(model.model).__name__
    if not isinstance(diffusion_model, UNetModel) or getattr(diffusion_model, "use_temporal_resblocks", False):
        raise ValueError(
            f"Deep cache cannot act on {name}: its {type(diffusion_model).__name__} is no image U-Net with skip "
            "connections. Use CrossAttnCachePatch, CFGCutoff or MixedResolutionPatch instead."
        )
    deepest = len(diffusion_model.output_blocks) - 1
    if settings.depth > deepest:
        raise ValueError(
            f"Deep cache depth {settings.depth} leaves nothing to skip: {name} has {deepest + 1} input blocks. "
            f"Use a depth of at most {deepest}."
        )


def install(run: Run, settings: DeepCache) -> None:
    """Add the deep cache to a run."""
    cache = run.new_cache()

    def wrapper(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        rows = transformer_options.get(ROWS)
        if run.step.deep == "off" or rows is None:
            cache.clear()
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        unet = executor.class_obj
        about = (tuple(x.shape[1:]), x.dtype)
        cached = [cache.get(PLACE, row.branch) for row in rows] if run.step.deep == "reuse" else [None]
        if all(part is not None and part.about[0] == about for part in cached):
            shallow = _shallow_forward(unet, settings.depth, join(cached), cached[0].about[1])
            rest = WrapperExecutor.new_class_executor(shallow, unet, executor.wrappers, executor.idx + 1)
            return rest.execute(x, timesteps, context, y, control, transformer_options, **kwargs)
        if run.step.deep == "reuse" or run.plan.deep_feature_is_reused_after(run.step.index):
            keep = _rows_to_keep(run, rows)
            transformer_options = _capturing(unet, settings.depth, transformer_options, keep, cache, about)
        out = executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        run.measure_caches()
        return out

    run.add_wrapper(WrappersMP.DIFFUSION_MODEL, wrapper)


def _rows_to_keep(run: Run, rows: Sequence[Row]) -> list[Row]:
    """All rows that the next step runs: not the negative one if guidance stops there."""
    following = min(run.step.index + 1, len(run.plan.steps) - 1)
    if run.plan.steps[following].guided:
        return list(rows)
    return [row for row in rows if not (row.paired and row.role == "negative")]


def _capturing(
    unet: UNetModel, depth: int, transformer_options: dict, rows: Sequence[Row], cache: RowCache, about: Any
) -> dict:
    """Transformer options with which the model also keeps the deep feature of `rows`."""
    first_kept = ("output", len(unet.output_blocks) - depth)
    patches = dict(transformer_options.get("patches", {}))
    others = list(patches.get("output_block_patch", []))

    def capture(h, skip, options):
        if tuple(options["block"]) == first_kept:
            # FreeU and others change h in place afterwards.
            feature = h.clone() if others else h
            cache.store(PLACE, rows, feature, (about, options.get("transformer_index")))
        return h, skip

    patches["output_block_patch"] = [capture, *others]
    return {**transformer_options, "patches": patches}


def _shallow_forward(unet: UNetModel, depth: int, feature: torch.Tensor, transformer_index: int | None) -> Callable:
    """The host's own U-Net forward on the first and last `depth` blocks around a cached deep feature."""
    skipped = len(unet.output_blocks) - depth
    view = _ShallowUNet(unet, depth, feature)

    def forward(x, timesteps, context, y, control, transformer_options, **kwargs):
        options = _ShiftedOptions(transformer_options, skipped, transformer_index)
        control = _shallow_control(control, skipped)
        return type(unet)._forward(view, x, timesteps, context, y, control, options, **kwargs)

    return forward


class _ShallowUNet:
    """What UNetModel._forward sees of the U-Net in a reuse step."""

    def __init__(self, unet: UNetModel, depth: int, feature: torch.Tensor) -> None:
        self._unet = unet
        self.input_blocks = unet.input_blocks[:depth]
        self.middle_block = [lambda h: feature]
        self.output_blocks = unet.output_blocks[-depth:]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unet, name)


class _ShiftedOptions(dict):
    """Transformer options in which output blocks keep the number they have in the whole U-Net.

    Patches address blocks by it. The transformer index (GLIGEN picks its modules with it) resumes where the full step
    had it.
    """

    def __init__(self, options: dict, skipped: int, transformer_index: int | None) -> None:
        super().__init__(options)
        self._skipped = skipped
        self._transformer_index = transformer_index
        patches = dict(options.get("patches", {}))
        patches.pop("middle_block_after_patch", None)
        super().__setitem__("patches", patches)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "block" and value[0] == "output":
            if value[1] == 0 and self._transformer_index is not None:
                super().__setitem__("transformer_index", self._transformer_index)
            value = ("output", value[1] + self._skipped)
        super().__setitem__(key, value)


def _shallow_control(control: dict | None, skipped: int) -> dict | None:
    """ControlNet residuals without those of the skipped blocks; the host pops them from the end of each list."""
    if control is None:
        return None
    output = control.get("output", [])
    return {**control, "middle": [], "output": output[: max(0, len(output) - skipped)]}
