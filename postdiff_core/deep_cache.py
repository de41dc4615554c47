"""Deep cache (section 2.5 of the paper, after DeepCache): the deep branch of the U-Net every k-th step.

A refresh step keeps what enters the first of the last `depth` output blocks. A reuse step runs the host's own forward
on the first and last `depth` blocks, with that feature in place of everything between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP

from .architecture import Size, diffusion_model_of, downsamplings, halve, whole_module
from .branches import Chunk, without_negative
from .row_cache import join, keeper
from .run import CHUNKS, Run, replaced
from .schedule import DeepCache

PLACE = "deep feature"
OTHER_FORWARD = (
    "Another node runs the U-Net its own way (a first block cache, say, as WaveSpeed's). In steps in which the deep "
    "cache acts, it does nothing. To use that node, remove the deep cache: Deep Cache with interval 1."
)


def refusal(model: Any) -> str | None:
    """Why the deep cache cannot act on this MODEL; None if it can."""
    diffusion_model = diffusion_model_of(model)
    if isinstance(diffusion_model, UNetModel) and not getattr(diffusion_model, "use_temporal_resblocks", False):
        return None
    return (
        f"Deep cache cannot act on {type(model.model).__name__}: its {type(diffusion_model).__name__} is not an "
        "image U-Net with skip connections."
    )


def depth_refusal(model: Any, settings: DeepCache) -> str | None:
    """Why nothing of this U-Net lies below that depth, and the remedy; None if something does."""
    deepest = len(diffusion_model_of(model).output_blocks) - 1
    if settings.depth <= deepest:
        return None
    return (
        f"Deep cache depth {settings.depth} leaves nothing to skip: {type(model.model).__name__} has {deepest + 1} "
        f"input blocks. Use a depth of at most {deepest}."
    )


def feature_size(unet: Any, depth: int, latent: Size) -> int:
    """Numbers in one row of the deep feature, for a latent of this height and width."""
    channels = unet.output_blocks[-depth - 1][0].out_channels
    return channels * math.prod(halve(latent, downsamplings(unet.input_blocks[:depth])))


def install(run: Run, settings: DeepCache) -> None:
    """Add the deep cache to a run."""
    run.add_wrapper(WrappersMP.APPLY_MODEL, _Reuse(run, settings.depth))


class _Reuse:
    """Runs a model call around the deep feature that is kept, or keeps the feature of one that computes it."""

    def __init__(self, run: Run, depth: int) -> None:
        self.run, self.depth = run, depth
        self.cache = run.new_cache()
        self.refreshed_in = -1

    def __call__(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        diffusion_model = executor.class_obj.diffusion_model
        unet, latent = whole_module(diffusion_model), tuple(x.shape[-2:])

        def call(forward: Callable | None = None) -> torch.Tensor:
            with replaced({(unet, "_forward"): forward} if forward else {}):
                return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

        chunks = transformer_options.get(CHUNKS)
        self._drop_what_is_over(chunks)
        if self.run.step.deep == "off" or chunks is None:
            return call()
        if "_forward" in unet.__dict__:
            self.run.note(OTHER_FORWARD)
        # FreeU and others change the feature in place.
        is_changed = "output_block_patch" in transformer_options.get("patches", {})
        feature = self._recall(chunks, latent)
        if self.run.step.deep == "reuse":
            self.run.count_window(chunks, is_there=feature is not None)
        if feature is not None:
            return call(_shallow_forward(unet, self.depth, feature.clone() if is_changed else feature))
        kept = _chunks_to_keep(self.run, chunks)
        if not kept:
            return call()
        seen: list[torch.Tensor] = []
        keep = keeper(kept, x.shape[0], copy=is_changed)
        out = call(_capturing_forward(unet, self.depth, lambda feature: seen.append(keep(feature))))
        if seen:  # another wrapper (EasyCache) may have left the model out
            feature = seen[-1].clone() if self.run.is_compiled(diffusion_model) else seen[-1]
            self.cache.store(PLACE, kept, feature, latent)
            self.run.measure_caches()
        return out

    def _drop_what_is_over(self, chunks: Sequence[Chunk] | None) -> None:
        step = self.run.step
        if step.deep == "off" or chunks is None:
            self.cache.clear()
        elif step.deep == "refresh" and step.index != self.refreshed_in:
            self.cache.clear()  # also of chunks that no longer run
            self.refreshed_in = step.index

    def _recall(self, chunks: Sequence[Chunk], latent: Size) -> torch.Tensor | None:
        """The feature for these chunks; None in a refresh step, or if it is not there for each of them at this size."""
        if self.run.step.deep != "reuse":
            return None
        cached = [self.cache.get(PLACE, chunk.branch) for chunk in chunks]
        fitting = [part for part in cached if part is not None and part.latent == latent]
        return join(fitting) if len(fitting) == len(chunks) else None


def _chunks_to_keep(run: Run, chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks that later steps reuse: none where none does, not the negative ones if guidance stops there."""
    index, plan = run.step.index, run.plan
    if run.step.deep == "refresh" and not plan.deep_feature_is_reused_after(index):
        return []
    if run.step.deep == "reuse":  # nothing was kept of these; of windows, which have moved on, nothing will be needed
        chunks = [chunk for chunk in chunks if chunk.branch.window is None]
    is_reused = plan.negative_deep_feature_is_reused_after(index) or run.keeps_guidance
    return list(chunks) if is_reused else without_negative(chunks)


def _capturing_forward(unet: Any, depth: int, capture: Callable[[torch.Tensor], None]) -> Callable:
    """The host's own U-Net forward, which also shows what enters the first of the last `depth` output blocks."""

    def show(feature):
        capture(feature)
        return feature

    *deeper, last = unet.output_blocks[:-depth]
    view: Any = _UNetView(unet, output_blocks=[*deeper, [*last, show], *unet.output_blocks[-depth:]])

    def forward(x, timesteps, context, y, control, transformer_options, **kwargs):
        return type(unet)._forward(view, x, timesteps, context, y, control, transformer_options, **kwargs)

    return forward


def _shallow_forward(unet: Any, depth: int, feature: torch.Tensor) -> Callable:
    """The host's own U-Net forward on the first and last `depth` blocks around a cached deep feature."""
    view: Any = _UNetView(
        unet,
        input_blocks=unet.input_blocks[:depth],
        middle_block=[lambda h: feature],
        output_blocks=unet.output_blocks[-depth:],
    )
    skipped = len(unet.output_blocks) - depth
    blocks_before = [*unet.input_blocks, unet.middle_block or (), *unet.output_blocks[:skipped]]
    transformers_before = sum(isinstance(layer, SpatialTransformer) for block in blocks_before for layer in block)

    def forward(x, timesteps, context, y, control, transformer_options, **kwargs):
        options = _ShiftedOptions(transformer_options, skipped, transformers_before)
        control = _shallow_control(control, skipped)
        return type(unet)._forward(view, x, timesteps, context, y, control, options, **kwargs)

    return forward


class _UNetView:
    """What UNetModel._forward sees of the U-Net: itself, with other blocks."""

    def __init__(self, unet: UNetModel, **blocks: Any) -> None:
        self._unet = unet
        self.__dict__.update(blocks)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unet, name)


def _fit(h: torch.Tensor, skip: torch.Tensor, _options: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes up, at the size of the skip connection: other nodes (HiDiffusion's RAUNet) change sizes within the
    model for a part of the run, which may end between a feature and its reuse."""
    if h.shape[-2:] != skip.shape[-2:]:
        h = torch.nn.functional.interpolate(h, size=skip.shape[-2:], mode="bilinear")
    return h, skip


class _ShiftedOptions(dict):
    """Transformer options in which output blocks keep the number they have in the whole U-Net.

    Patches address blocks by it. The transformer index (GLIGEN picks its modules with it) resumes where the full step
    had it.
    """

    def __init__(self, options: dict, skipped: int, transformer_index: int) -> None:
        super().__init__(options)
        self._skipped = skipped
        self._transformer_index = transformer_index
        patches = dict(options.get("patches", {}))
        patches.pop("middle_block_after_patch", None)
        patches["output_block_patch"] = [*patches.get("output_block_patch", ()), _fit]  # last, should others not do it
        super().__setitem__("patches", patches)

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "block" and value[0] == "output":
            if value[1] == 0:
                super().__setitem__("transformer_index", self._transformer_index)
            value = ("output", value[1] + self._skipped)
        super().__setitem__(key, value)


def _shallow_control(control: dict | None, skipped: int) -> dict | None:
    """ControlNet residuals without those of the skipped blocks; the host pops them from the end of each list."""
    if control is None:
        return None
    output = control.get("output", [])
    return {**control, "middle": [], "output": output[: max(0, len(output) - skipped)]}
