"""Stand-ins for a CLIP, a VAE and a CLIP_VISION around a tiny random model: a whole picture takes milliseconds."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch.nn import Linear

CPU = torch.device("cpu")
WIDTH, TOKENS = 16, 7  # of tiny_models' prompts
EMBEDDING = 8


def _patcher(module: torch.nn.Module) -> ModelPatcher:
    for weight in module.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return ModelPatcher(module, load_device=CPU, offload_device=CPU)


class Clip:
    """A text encoder whose prompts are random, but always the same."""

    def __init__(self, embedding: int = EMBEDDING, width: int = WIDTH) -> None:
        self.cond_stage_model = Linear(width, embedding)
        self.patcher = _patcher(self.cond_stage_model)
        self.layer_idx = None
        self.encoded: list[str] = []

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens(self, tokens: str, return_pooled: bool = False) -> Any:
        generator = torch.Generator().manual_seed(zlib.crc32(tokens.encode()))
        prompt = torch.randn(1, TOKENS, self.cond_stage_model.in_features, generator=generator)
        return prompt, self.cond_stage_model(prompt.mean(dim=1))

    def encode_from_tokens_scheduled(self, tokens: str) -> Any:
        self.encoded.append(tokens)
        prompt, pooled = self.encode_from_tokens(tokens, return_pooled=True)
        return [[prompt, {"pooled_output": pooled}]]


class Vae:
    """A decoder that shows three of the four latent channels, eight pixels a number."""

    def __init__(self) -> None:
        self.first_stage_model = Linear(2, 2)
        self.patcher = _patcher(self.first_stage_model)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        picture = torch.sigmoid(latent[:, :3]).repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
        return picture.movedim(1, -1)


class ClipVision:
    """An image encoder: the picture's mean colours in a few cells, projected."""

    def __init__(self, embedding: int = EMBEDDING) -> None:
        self.model = SimpleNamespace(visual_projection=Linear(12, embedding))
        self.patcher = _patcher(self.model.visual_projection)

    def encode_image(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        cells = torch.nn.functional.adaptive_avg_pool2d(image.movedim(-1, 1), 2).flatten(1)
        return {"image_embeds": self.model.visual_projection(cells - cells.mean())}
