"""The embedded model's networks, shared by the loader and the recipe.

The U-Net is ComfyUI's own `UNetModel` and the text encoder its CLIP text model with a small word vocabulary, so that
every stock node works on them; only the autoencoder is this project's.
"""

from __future__ import annotations

import re
from typing import Any

import comfy.clip_model
import comfy.ops
import comfy.sd1_clip
import torch
import torch.nn.functional as F
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

LATENT_CHANNELS = 8
DOWNSCALE = 8  # picture pixels per latent pixel

# Constraints of UNetModel: channel_mult starts with 1, widths are multiples of 32 (group norm, heads of 32 channels),
# and transformer_depth_output is consumed from its end, so the deepest output block comes last.
UNET = {
    "image_size": 32,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 0, 1],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "context_dim": 128,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
UNET_HEADS = {"num_heads": -1, "num_head_channels": 32}

TEXT_ENCODER = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "gelu",
    "max_position_embeddings": 16,
    "eos_token_id": 1,
}

START, END, PAD, UNKNOWN = range(4)
SPECIAL_TOKENS = ("<start>", "<end>", "<pad>", "<unknown>")


def build_unet(config: dict, **kwargs) -> UNetModel:
    """The denoiser: (B, 8, h, w) latents, timesteps in 0..1000, (B, tokens, 128) text -> (B, 8, h, w)."""
    return UNetModel(**config, **UNET_HEADS, **kwargs)


def text_encoder_config(words: list[str]) -> dict[str, Any]:
    """The text encoder's configuration for these words."""
    return {**TEXT_ENCODER, "vocab_size": len(SPECIAL_TOKENS) + len(words)}


class WordTokenizer:
    """One token a known word; takes the place of transformers' CLIPTokenizer, its path being the word list."""

    def __init__(self, words: list[str]):
        self.ids = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *words))}
        self.words = {i: word for word, i in self.ids.items()}

    @classmethod
    def from_pretrained(cls, words: list[str], **_) -> WordTokenizer:
        return cls(words)

    def __call__(self, text: str) -> dict[str, list[int]]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return {"input_ids": [START, *(self.ids.get(word, UNKNOWN) for word in words), END]}

    def get_vocab(self) -> dict[str, int]:
        return self.ids

    def decode(self, ids, skip_special_tokens: bool = True) -> str:
        return " ".join(self.words[int(i)] for i in ids if not (skip_special_tokens and int(i) < UNKNOWN))


class _TextModel(comfy.clip_model.CLIPTextModel):
    """ComfyUI's CLIP text model, which assumes 49,408 tokens, with an embedding of our own size."""

    def __init__(self, config, dtype, device, operations):
        super().__init__(config, dtype, device, operations)
        self.set_input_embeddings(
            operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
        )


class _ClipModel(comfy.sd1_clip.SDClipModel):
    transformer: _TextModel

    def __init__(self, config, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=config["max_position_embeddings"],
            textmodel_json_config=dict(config),
            model_class=_TextModel,
            special_tokens={"start": START, "end": END, "pad": PAD},
            return_projected_pooled=False,
            model_options=model_options or {},
        )


class TextEncoder(comfy.sd1_clip.SD1ClipModel):
    """Tokens of a prompt -> (B, 16, 128); the class `comfy.sd.CLIP` builds."""

    clip_emoji: _ClipModel

    def __init__(self, config, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options or {},
            clip_name="emoji",
            clip_model=_ClipModel,
            config=config,
        )


def tokenizer_class(words: list[str], length: int, embedding_size: int) -> type[comfy.sd1_clip.SD1Tokenizer]:
    """The tokenizer class `comfy.sd.CLIP` instantiates, for one word list; `length` includes start and end."""

    class EmojiSDTokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                words,
                max_length=length,
                pad_with_end=False,
                pad_token=PAD,
                embedding_directory=embedding_directory,
                embedding_size=embedding_size,
                embedding_key="clip_emoji",
                tokenizer_class=WordTokenizer,
                tokenizer_data=tokenizer_data or {},
            )

    class EmojiTokenizer(comfy.sd1_clip.SD1Tokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                embedding_directory=embedding_directory,
                tokenizer_data=tokenizer_data or {},
                clip_name="emoji",
                tokenizer=EmojiSDTokenizer,
            )

    return EmojiTokenizer


def zero(module: nn.Module) -> None:
    """Weights and bias to zero: how the end of a residual branch starts."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, operations: Any):
        super().__init__()
        self.conv1 = operations.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = operations.Conv2d(channels, channels, 3, padding=1)
        zero(self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Autoencoder(nn.Module):
    """Pictures (B, 3, 8h, 8w) in -1..1 <-> latents (B, 8, h, w) of zero mean and unit variance.

    `operations` has the layers: those of ComfyUI leave the weights as they are, for the loader to fill.
    Pixel shuffles do the first and last factor of 4: most of the work happens on small grids, which a CPU can train.
    """

    def __init__(self, operations: Any = nn):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            operations.Conv2d(48, 48, 3, padding=1),
            ResidualBlock(48, operations),
            operations.Conv2d(48, 64, 3, stride=2, padding=1),
            ResidualBlock(64, operations),
            ResidualBlock(64, operations),
            nn.SiLU(),
            operations.Conv2d(64, LATENT_CHANNELS, 3, padding=1),
        )
        self.normalize = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02)
        self.decoder = nn.Sequential(
            operations.Conv2d(LATENT_CHANNELS, 128, 3, padding=1),
            ResidualBlock(128, operations),
            ResidualBlock(128, operations),
            ResidualBlock(128, operations),
            operations.Conv2d(128, 48 * 4, 1),
            nn.PixelShuffle(2),
            ResidualBlock(48, operations),
            ResidualBlock(48, operations),
            nn.SiLU(),
            operations.Conv2d(48, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def encode(self, pictures: torch.Tensor, **_) -> torch.Tensor:
        latents = self.encoder(pictures)
        return self.normalize.to(latents.device)(latents)  # the host may leave what has no weights behind

    def decode(self, latents: torch.Tensor, **_) -> torch.Tensor:
        return self.decoder(latents)
