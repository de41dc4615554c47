from __future__ import annotations

from typing import Any

import nodes as comfy_nodes
from comfy_api.latest import io

from ..postdiff_core import patch
from ..postdiff_core.schedule import MixedResolution
from .events import observer_for
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
            outputs=[
                io.Latent.Output(tooltip="The denoised latent."),
                io.Model.Output(tooltip="The patched clone that ran, for its report."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict,
        denoise: float,
        low_res_scale: float,
        low_res_until: float,
        upscale_method: str,
    ) -> io.NodeOutput:
        technique = MixedResolution(low_res_scale, low_res_until, upscale_method)
        patched = patch.add(model, technique, observer_for(unique_id(cls)))
        patched = patch.with_batch_index(patched, latent_image.get("batch_index"))
        (latent,) = comfy_nodes.common_ksampler(
            patched, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
        )
        return io.NodeOutput(latent, patched)
