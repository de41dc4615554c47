from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..postdiff_core import patch
from ..postdiff_core.schedule import MODES, CrossAttnCache
from .events import observer_for
from .schema import fraction_input, patch_outputs, schema, unique_id


class CrossAttnCachePatch(io.ComfyNode):
    """The cross-attention cache of section 2.5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CrossAttnCachePatch",
            display_name="Cross-Attention Cache",
            category="PostDiff/patches",
            description="Late in a run, cross-attention layers of SD U-Nets and PixArt return what they gave before.",
            search_aliases=["postdiff", "tgate", "speed up", "cache"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion U-Net or a PixArt model."),
                fraction_input(
                    "start_percent",
                    default=CrossAttnCache.start_percent,
                    tooltip="From this fraction of the whole schedule on, cross-attention is reused. Lower is faster "
                    "and follows the prompt less; 1 is off. The paper's m.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=CrossAttnCache.mode,
                    tooltip="What the remaining branch reuses once guidance is dropped: its own output (cond, the "
                    "paper's choice), the mean of both, the negative prompt's, or both combined by the guidance scale.",
                ),
            ],
            outputs=patch_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, start_percent: float, mode: str) -> io.NodeOutput:
        technique = CrossAttnCache(start_percent, mode)  # type: ignore[arg-type]
        return io.NodeOutput(patch.add(model, technique, observer_for(unique_id(cls))))
