"""Small random networks that judge pictures, as files in the formats of the real ones."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch.nn import Conv2d
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from pack import comfyui_path

FEATURES = 6


class PooledColours(torch.nn.Module):
    """Pictures, uint8 (n, 3, height, width), to features (n, FEATURES)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Conv2d(3, FEATURES, 3, stride=2)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layer(pictures.float() / 255).relu().mean(dim=(2, 3))


def save_features(file: Path) -> Path:
    torch.manual_seed(1)
    torch.jit.script(PooledColours().eval()).save(str(file))
    return file


def save_lpips_weights(file: Path) -> Path:
    """SqueezeNet, the smallest of LPIPS's backbones."""
    torch.manual_seed(2)
    torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), file)
    return file


def save_clip(folder: Path) -> Path:
    torch.manual_seed(3)
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**layers, "vocab_size": 49408, "max_position_embeddings": 77},
        vision_config={**layers, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).eval().save_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(comfyui_path() / "comfy" / "sd1_tokenizer")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
    return folder
