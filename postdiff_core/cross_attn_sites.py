"""Where a model reads the prompt: its cross-attention layers, found in the loaded model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.pixart.pixartms import PixArtMSBlock

from .architecture import Size, downsamplings, halve, whole_module

Place = tuple[str, int, int]


class Site(NamedTuple):
    """One cross-attention layer.

    `place` is the host's name of it, ("input", 4, 0): kind, block, transformer within it. `output` is the module that
    gives the layer's result, also where a replacement (IPAdapter) attends in the layer's stead. `norm` is the
    normalisation before it, if it has one.
    """

    place: Place
    module: torch.nn.Module
    output: torch.nn.Module
    norm: torch.nn.Module | None


def find_sites(diffusion_model: Any) -> list[Site]:
    """The cross-attention layers of a U-Net or PixArt, in no particular order; empty for other models."""
    diffusion_model = whole_module(diffusion_model)
    if not isinstance(diffusion_model, torch.nn.Module):
        return []  # an engine's front, as TensorRT's
    sites = []
    for name, module in diffusion_model.named_modules():
        name = name.replace("._orig_mod", "")  # what torch.compile puts around a block that it compiles alone
        if isinstance(module, PixArtMSBlock):
            sites.append(Site(("blocks", int(name.rpartition(".")[2]), 0), module.cross_attn, module.cross_attn, None))
        elif isinstance(diffusion_model, UNetModel) and _has_cross_attention(name, module):
            block: Any = module
            output = getattr(block.attn2, "to_out", block.attn2)  # another node may have put a module of its own there
            sites.append(Site(_unet_place(name), block.attn2, output, block.norm2))
    return sites


def output_size(diffusion_model: torch.nn.Module, latent: Size) -> int:
    """Numbers in one row of the outputs of all cross-attention layers, for a latent of this height and width."""
    inputs = getattr(diffusion_model, "input_blocks", ())
    levels = [0, *accumulate(downsamplings([block]) for block in inputs)]  # after so many input blocks
    return sum(
        _width(site) * math.prod(halve(latent, _level(site.place, levels))) for site in find_sites(diffusion_model)
    )


def _has_cross_attention(name: str, module: torch.nn.Module) -> bool:
    """Whether this is a transformer block with cross-attention, and not one between the frames of a video (SVD)."""
    return isinstance(module, BasicTransformerBlock) and module.attn2 is not None and ".transformer_blocks." in name


def _unet_place(name: str) -> Place:
    """("input", 4, 0) from input_blocks.4.1.transformer_blocks.0, ("middle", 0, 0) from the middle block's first."""
    parts = name.split(".")
    kind = parts[0].partition("_")[0]
    return kind, 0 if kind == "middle" else int(parts[1]), int(parts[-1])


def _width(site: Site) -> int:
    layer: Any = site.module
    norm: Any = site.norm
    return layer.proj.out_features if norm is None else norm.normalized_shape[-1]


def _level(place: Place, levels: Sequence[int]) -> int:
    """How often the latent's sides are halved on the way to this layer."""
    kind, block, _ = place
    match kind:
        case "input":
            return levels[block + 1]
        case "output":
            return levels[-1 - block]
        case "middle":
            return levels[-1]
        case _:
            return 1  # PixArt's patches of 2 x 2
