"""The stock KSampler on a patched model: what both sampler nodes do."""

from __future__ import annotations

from typing import Any

import nodes as comfy_nodes
from comfy_api.latest import io

from ..postdiff_core import patch


def sampler_outputs() -> list[io.Output]:
    return [
        io.Latent.Output(tooltip="The denoised latent."),
        io.Model.Output(tooltip="The patched clone that ran, for its report."),
    ]


def sample(patched: Any, ksampler: dict[str, Any]) -> io.NodeOutput:
    """The latent that KSampler gives for its own inputs on the patched MODEL, and that MODEL."""
    model = patch.with_batch_index(patched, ksampler["latent_image"].get("batch_index"))
    (latent,) = comfy_nodes.KSampler().sample(**{**ksampler, "model": model})
    return io.NodeOutput(latent, patched)
