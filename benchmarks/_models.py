"""The paper's architectures at full size with random weights, from ComfyUI's own classes, and their stock sampling.

Speed does not depend on the weights, so none are downloaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.supported_models as supported_models
import torch
from comfy.model_patcher import CoreModelPatcher
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

import full_size_models  # tests/support

POOLED_WIDTH = 1280
PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class Family:
    """A model of the paper and how it samples it (section 3.1); `preset` names its settings."""

    title: str
    preset: str
    host_class: type
    configuration: dict[str, Any]
    size: int  # pixels
    steps: int
    cfg: float
    tokens: int
    text_width: int
    sampler: str = "euler"
    scheduler: str = "normal"

    @property
    def guided(self) -> bool:
        return self.cfg > 1.0


_SD15 = full_size_models.SD15
FAMILIES = {
    "sd15": Family("SD1.5", "sd15", supported_models.SD15, _SD15, 768, 20, 7.5, 77, 768),
    "lcm": Family("LCM", "lcm", supported_models.SD15, _SD15, 768, 8, 1.0, 77, 768, "lcm", "sgm_uniform"),
    "sdxl": Family("SDXL", "sdxl", supported_models.SDXL, full_size_models.SDXL, 1024, 20, 5.0, 77, 2048),
    "pixart_alpha": Family(
        *("PixArt-alpha", "pixart_alpha", supported_models.PixArtAlpha, full_size_models.PIXART_ALPHA),
        *(1024, 20, 4.5, 120, 4096),
    ),
}


def build(family: Family, dtype: torch.dtype, *, seed: int = 0) -> Any:
    """A MODEL with random weights that keep activations finite."""
    config = family.host_class(family.configuration | {"dtype": dtype})
    model = config.get_model({}, device=torch.device("cpu"))
    _fill(model.diffusion_model, seed)
    patcher = CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return ModelSamplingDiscrete().patch(patcher, "lcm", zsnr=False)[0] if family.sampler == "lcm" else patcher


def sampler_inputs(
    family: Family, model: Any, *, pixels: int, steps: int, batch: int = 1, seed: int = 0
) -> dict[str, Any]:
    """The stock KSampler's inputs for square pictures from a random prompt."""
    sides = pixels // PIXELS_PER_LATENT
    return {
        "model": model,
        "seed": seed,
        "steps": steps,
        "cfg": family.cfg,
        "sampler_name": family.sampler,
        "scheduler": family.scheduler,
        "positive": _prompt(family, seed=1),
        "negative": _prompt(family, seed=2),
        "latent_image": {"samples": torch.zeros(batch, model.model.latent_format.latent_channels, sides, sides)},
    }


def _prompt(family: Family, *, seed: int) -> list[list[Any]]:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randn(1, family.tokens, family.text_width, generator=generator)
    pooled = {}
    if family.configuration.get("adm_in_channels"):
        pooled["pooled_output"] = torch.randn(1, POOLED_WIDTH, generator=generator)
    return [[prompt, pooled]]


def _fill(module: torch.nn.Module, seed: int) -> None:
    """Normal weights of variance 1 / inputs, drawn once and repeated (billions of draws would take minutes)."""
    drawn = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(seed))
    for name, weight in module.named_parameters():
        if weight.ndim == 1:
            weight.data.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        values = drawn.repeat(math.ceil(weight.numel() / drawn.numel()))[: weight.numel()].view(weight.shape)
        weight.data.copy_(values / math.sqrt(math.prod(weight.shape[1:])))
