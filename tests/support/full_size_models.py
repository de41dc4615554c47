"""The paper's models at full size: ComfyUI's own classes and configurations on the meta device, without memory."""

from __future__ import annotations

from typing import Any

import comfy.supported_models as supported_models
import torch
from comfy.model_base import BaseModel

META = torch.device("meta")

# As comfy.model_detection finds them in the checkpoints.
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_checkpoint": False,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "legacy": False,
    "dtype": torch.float16,
}
SD15 = UNET | {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "adm_in_channels": None,
}
SDXL = UNET | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
PIXART_ALPHA = {
    "image_model": "pixart_alpha",
    "num_heads": 16,
    "patch_size": 2,
    "hidden_size": 1152,
    "in_channels": 4,
    "depth": 28,
    "model_max_length": 120,
    "input_size": 128,
    "pe_interpolation": 2,
    "micro_condition": True,
    "dtype": torch.float16,
}


def sd15() -> BaseModel:
    """SD1.5, and LCM, which has the same layers."""
    return _model(supported_models.SD15, SD15)


def sdxl() -> BaseModel:
    return _model(supported_models.SDXL, SDXL)


def pixart_alpha() -> BaseModel:
    return _model(supported_models.PixArtAlpha, PIXART_ALPHA)


def _model(family: type, configuration: dict[str, Any]) -> BaseModel:
    return family(configuration).get_model({}, device=META)
