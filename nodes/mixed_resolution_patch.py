from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..postdiff_core import patch
from ..postdiff_core.schedule import MixedResolution
from .events import observer_for
from .schema import mixed_resolution_inputs, patch_outputs, schema, unique_id


class MixedResolutionPatch(io.ComfyNode):
    """Section 2.2 as a patch, for KSamplerAdvanced, SamplerCustom and other samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MixedResolutionPatch",
            display_name="Mixed Resolution (patch)",
            category="PostDiff/patches",
            description="Runs the early steps of any sampler at low resolution and the rest at full size.",
            search_aliases=["postdiff", "speed up", "low resolution"],
            inputs=[io.Model.Input("model", tooltip="The model to patch."), *mixed_resolution_inputs()],
            outputs=patch_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        low_res_scale: float,
        low_res_until: float,
        upscale_method: str,
        switch: str = MixedResolution.switch,
    ) -> io.NodeOutput:
        technique = MixedResolution(low_res_scale, low_res_until, upscale_method, switch)
        return io.NodeOutput(patch.add(model, technique, observer_for(unique_id(cls))))
