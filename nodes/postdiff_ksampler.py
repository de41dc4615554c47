from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..postdiff_core import patch, presets, saved_presets
from .events import observer_for
from .sampling import sample, sampler_outputs
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
            description="KSampler with cheaper steps: mixed resolution, caches and late guidance cut-off at the "
            "settings the paper found for the model's family. Patches on the model override the preset.",
            search_aliases=["postdiff", "ksampler", "speed up", "faster", "accelerate", "optimize"],
            inputs=[
                *ksampler_inputs(),
                io.Combo.Input(
                    "preset",
                    options=presets.choices(),
                    default="auto",
                    tooltip="auto (recommended) recognises the model's family, whether it is distilled, and the "
                    "latent's size. lcm: distilled SD1.5. off: only the patches on the model act. Your saved presets "
                    "follow.",
                ),
            ],
            outputs=sampler_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None = None) -> bool | str:
        """The host's own check of a choice names no remedy; a preset that comes through a link is checked later."""
        if preset is None or preset in presets.CHOICES:
            return True
        try:
            saved_presets.load(preset)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, preset: str | None = None, **_: Any) -> str:
        """Runs again when a saved preset has changed under its name."""
        return saved_presets.fingerprint(preset) if preset and preset not in presets.CHOICES else ""

    @classmethod
    def execute(cls, model: Any, preset: str, **ksampler: Any) -> io.NodeOutput:
        inputs = {name: ksampler[name] for name in ("sampler_name", "cfg", "steps")}
        height, width = ksampler["latent_image"]["samples"].shape[-2:]
        choice = presets.choose(preset, model, **inputs, size=(height, width))
        log.info("PostDiff preset %s.", choice.reason)
        canvas = observer_for(unique_id(cls))
        if canvas is not None and preset not in presets.PRESETS:  # those the page knows
            canvas.show_choice(preset, choice)
        try:
            patched = patch.fill(model, choice.settings, canvas, choice.remarks)
        except ValueError as error:
            raise ValueError(f"The preset {preset!r} does not suit this model; auto does. {error}") from error
        return sample(patched, ksampler)
