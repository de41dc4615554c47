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


class TextEncoder(torch.nn.Linear):
    """Prompts are random, but always the same; tokens are the text itself."""

    def reset_clip_options(self) -> None: ...

    def set_clip_options(self, options: dict[str, Any]) -> None: ...

    def encode_token_weights(self, tokens: str) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(zlib.crc32(tokens.encode()))
        prompt = torch.randn(1, TOKENS, self.in_features, generator=generator)
        return prompt, self(prompt.mean(dim=1))


class Clip:
    """What the host's CLIP offers, as far as sampling and the CLIP score use it."""

    def __init__(self, embedding: int = EMBEDDING, width: int = WIDTH) -> None:
        self.cond_stage_model = TextEncoder(width, embedding)
        self.patcher = _patcher(self.cond_stage_model)
        self.layer_idx = None

    def load_model(self, tokens: str) -> None: ...

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> Any:
        prompt, pooled = self.cond_stage_model.encode_token_weights(tokens)
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
