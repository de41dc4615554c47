from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..postdiff_core import patch
from ..postdiff_core.schedule import MixedResolution
from .events import observer_for
from .sampling import sample, sampler_outputs
from .schema import ksampler_inputs, mixed_resolution_inputs, schema, unique_id


class MixedResolutionKSampler(io.ComfyNode):
    """KSampler with the early steps at low resolution (section 2.2)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="MixedResolutionKSampler",
            display_name="KSampler (Mixed Resolution)",
            category="PostDiff/sampling",
            description="KSampler that runs the early steps at low resolution and the rest at full size.",
            search_aliases=["postdiff", "ksampler", "speed up", "low resolution"],
            inputs=[*ksampler_inputs(), *mixed_resolution_inputs()],
            outputs=sampler_outputs(),
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
        **ksampler: Any,
    ) -> io.NodeOutput:
        technique = MixedResolution(low_res_scale, low_res_until, upscale_method, switch)
        return sample(patch.add(model, technique, observer_for(unique_id(cls))), ksampler)
