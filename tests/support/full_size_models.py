"""The paper's models at full size, on the meta device: ComfyUI's own classes and configurations, no memory for weights."""

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
SD2 = SD15 | {"use_linear_in_transformer": True, "context_dim": 1024}
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
PIXART = {
    "num_heads": 16,
    "patch_size": 2,
    "hidden_size": 1152,
    "in_channels": 4,
    "depth": 28,
    "dtype": torch.float16,
}
PIXART_ALPHA = PIXART | {
    "image_model": "pixart_alpha",
    "model_max_length": 120,
    "input_size": 128,
    "pe_interpolation": 2,
    "micro_condition": True,
}
PIXART_SIGMA = PIXART | {"image_model": "pixart_sigma", "model_max_length": 300, "micro_condition": False}


def sd15(**changes: Any) -> BaseModel:
    return _model(supported_models.SD15, SD15 | changes)


def sd15_inpainting() -> BaseModel:
    return sd15(in_channels=9)


def sd2() -> BaseModel:
    return _model(supported_models.SD20, SD2)


def sdxl() -> BaseModel:
    return _model(supported_models.SDXL, SDXL)


def pixart_alpha() -> BaseModel:
    return _model(supported_models.PixArtAlpha, PIXART_ALPHA)


def pixart_sigma() -> BaseModel:
    return _model(supported_models.PixArtSigma, PIXART_SIGMA)


def _model(family: type, configuration: dict[str, Any]) -> BaseModel:
    return family(configuration).get_model({"": torch.empty(0)}, device=META)
