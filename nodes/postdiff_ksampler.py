from __future__ import annotations

import logging
from typing import Any

import nodes as comfy_nodes
from comfy_api.latest import io

from ..postdiff_core import patch, presets
from .events import observer_for
from .schema import ksampler_inputs, schema, unique_id

log = logging.getLogger("postdiff")


class PostDiffKSampler(io.ComfyNode):
    """KSampler with all techniques at the paper's settings for the model's family (section 3.1)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PostDiffKSampler",
            display_name="KSampler (PostDiff)",
            category="PostDiff/sampling",
            description="KSampler that generates two to three times faster: mixed resolution, caches and late guidance "
            "cut-off at the settings the paper found for the model's family. Patches on the model override the preset.",
            search_aliases=["postdiff", "ksampler", "speed up", "faster"],
            inputs=[
                *ksampler_inputs(),
                io.Combo.Input(
                    "preset",
                    options=list(presets.CHOICES),
                    default="auto",
                    tooltip="Which family's settings to use. auto recognises the model; off leaves only its patches.",
                ),
            ],
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
        preset: str,
    ) -> io.NodeOutput:
        choice = presets.choose(preset, model, sampler_name=sampler_name, cfg=cfg, steps=steps)
        log.info("PostDiff preset %s.", choice.reason)
        patched = patch.fill(model, choice.settings, observer_for(unique_id(cls)))
        patched = patch.with_batch_index(patched, latent_image.get("batch_index"))
        (latent,) = comfy_nodes.common_ksampler(
            patched, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise=denoise
        )
        return io.NodeOutput(latent, patched)
