from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..postdiff_core import patch
from ..postdiff_core.schedule import DeepCache
from .events import observer_for
from .schema import fraction_input, patch_outputs, schema, unique_id


class DeepCachePatch(io.ComfyNode):
    """The deep cache of section 2.5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DeepCachePatch",
            display_name="Deep Cache",
            category="PostDiff/patches",
            description="Computes the deep branch of a U-Net (SD1.5, SD2, SDXL) every few steps, reuses it in between.",
            search_aliases=["postdiff", "deepcache", "speed up", "cache"],
            inputs=[
                io.Model.Input("model", tooltip="A U-Net model. Transformers such as PixArt have no deep branch."),
                io.Int.Input(
                    "interval",
                    default=DeepCache.interval,
                    min=1,
                    max=20,
                    tooltip="The deep branch is computed once in so many steps. Higher is faster but soon blurs "
                    "detail (the paper uses 2); 1 is off. The paper's k.",
                ),
                io.Int.Input(
                    "depth",
                    default=DeepCache.depth,
                    min=1,
                    max=11,
                    tooltip="Input blocks computed in every step. Lower is faster, higher keeps more of the picture. "
                    "The paper's operation counts are those of 2. At most 11 on SD1.5, 8 on SDXL.",
                ),
                fraction_input(
                    "start_percent",
                    default=DeepCache.start_percent,
                    tooltip="The fraction of the whole schedule at which reuse begins. Higher protects composition and "
                    "is slower.",
                ),
                fraction_input(
                    "end_percent",
                    default=DeepCache.end_percent,
                    tooltip="The fraction of the whole schedule at which reuse ends. Lower protects fine detail and is "
                    "slower.",
                ),
            ],
            outputs=patch_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, interval: int, depth: int, start_percent: float, end_percent: float) -> io.NodeOutput:
        technique = DeepCache(interval, depth, start_percent, end_percent)
        return io.NodeOutput(patch.add(model, technique, observer_for(unique_id(cls))))
