"""What the techniques need to know of a loaded model: its architecture and its timesteps, read from the model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel
from comfy.ldm.pixart.pixartms import PixArtMS

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class LatentGeometry:
    """The latent sizes a model takes: sides in multiples of `multiple`, a mean side of at least `smallest_mean`."""

    multiple: int
    smallest_mean: int = 0


def latent_geometry(diffusion_model: Any) -> LatentGeometry | None:
    """The latent sizes for mixed resolution; None for an architecture that states neither levels nor a patch size."""
    if isinstance(diffusion_model, UNetModel):
        # Half its total downsampling: the lowest level may round up, while finer sides keep the aspect ratio.
        return LatentGeometry(multiple=max(1, 2 ** (len(diffusion_model.channel_mult) - 2)))
    if isinstance(diffusion_model, PixArtMS):
        # Positions are scaled by round(mean side / 64), which is 0 up to 32 (comfy/ldm/pixart/pixartms.py).
        return LatentGeometry(multiple=diffusion_model.patch_size, smallest_mean=33)
    patch_size = getattr(diffusion_model, "patch_size", None)
    if isinstance(patch_size, (tuple, list)):
        *_, height, width = patch_size
        if height != width:  # no picture: ACE-Step's latent is frequency x time
            return None
        patch_size = height
    return LatentGeometry(multiple=patch_size) if isinstance(patch_size, int) else None


def sigma_at(model_sampling: Any, fraction: float) -> float:
    """The noise level at which this fraction of the model's timesteps has passed.

    It is the host's percent_to_sigma, except under distilled sampling (LCM), which knows every 20th timestep only, the
    last being 19. The host counts down to 0 there too, where half of the paper's 8 steps would be 5.
    """
    spacing = getattr(model_sampling, "skip_steps", 1)
    if spacing == 1 or not 0 < fraction < 1:
        return model_sampling.percent_to_sigma(fraction)
    first, last = model_sampling.num_timesteps - 1, spacing - 1
    return float(model_sampling.sigma(torch.tensor(first - fraction * (first - last))))


def diffusion_model_of(model: Any) -> Any:
    """The diffusion model that a MODEL runs, object patches applied, without torch.compile's wrapper."""
    return whole_module(model.get_model_object("diffusion_model"))


def whole_module(diffusion_model: Any) -> Any:
    """The diffusion model itself, without torch.compile's wrapper."""
    return getattr(diffusion_model, "_orig_mod", diffusion_model)


def is_compiled(diffusion_model: Any) -> bool:
    """Whether torch.compile runs any part of it: CUDA graphs overwrite what they gave, so what is kept is cloned."""
    return any(
        "_orig_mod" in module._modules or module._compiled_call_impl is not None for module in diffusion_model.modules()
    )


def downsamplings(blocks: Iterable[Any]) -> int:
    """How often these blocks of a U-Net halve the sides of what runs through them."""
    return sum(isinstance(layer, Downsample) for block in blocks for layer in block)


def size_ratio(size: Size, low: Size) -> float:
    """How many times longer the sides of `size` are, on average."""
    return math.sqrt(math.prod(size) / math.prod(low))


def format_size(size: Size) -> str:
    """Width x height, as pictures are named."""
    return f"{size[1]}x{size[0]}"


def halve(size: Size, times: int) -> Size:
    """The sides after a number of downsamplings; an odd side leaves the larger half."""
    for _ in range(times):
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    return size
