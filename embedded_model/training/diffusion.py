"""Train the denoiser and the text encoder on encoded views, by flow matching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..architecture import SPECIAL_TOKENS, TEXT_ENCODER, UNET, TextEncoder, build_unet, tokenizer_class, zero
from .config import Recipe, concepts
from .host import autocast, generator
from .loop import averaged_weights, train
from .pictures import caption, trained_pairs, vocabulary

TIMESTEP_SCALE = 1000  # ComfyUI's flow models see t * 1000


class TextToImage(nn.Module):
    """U-Net and text encoder as ComfyUI runs them, made trainable."""

    def __init__(self, words: list[str]):
        super().__init__()
        text_config = {**TEXT_ENCODER, "vocab_size": len(SPECIAL_TOKENS) + len(words)}
        self.unet = build_unet(UNET, dtype=torch.float32)
        self.text_encoder = TextEncoder(text_config, dtype=torch.float32)
        self.tokenizer = tokenizer_class(words, TEXT_ENCODER["max_position_embeddings"], TEXT_ENCODER["hidden_size"])()
        initialise(self)
        text_model = self.text_encoder.requires_grad_(False).clip_emoji.transformer.text_model.requires_grad_(True)
        for name, module in text_model.named_modules():
            # the layers add to their input in place, which autograd forbids once the norm has saved it
            if name.endswith(("layer_norm1", "layer_norm2")):
                module.register_forward_pre_hook(clone_input)

    def encode_text(self, captions: list[str]) -> torch.Tensor:
        tokens = [[token for token, _ in self.tokenizer.tokenize_with_weights(text)["emoji"][0]] for text in captions]
        return self.text_encoder.clip_emoji(tokens)[0]

    def forward(self, latents: torch.Tensor, t: torch.Tensor, captions: list[str]) -> torch.Tensor:
        return self.unet(latents, t * TIMESTEP_SCALE, self.encode_text(captions))


def clone_input(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].clone(), *inputs[1:])


def initialise(network: TextToImage) -> None:
    """ComfyUI's layers skip initialisation: torch's defaults, and zeros where a residual branch ends."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    nn.init.normal_(network.text_encoder.clip_emoji.transformer.get_input_embeddings().weight, std=0.3)  # few words
    for name, module in network.unet.named_modules():
        if name.endswith(("out_layers.3", "proj_out", "out.2")):
            zero(module)


def full_size_share(step: int, steps: int, recipe: Recipe) -> float:
    first, last = recipe.full_size_share
    return first + (last - first) * step / steps


def train_diffusion(recipe: Recipe, folder: Path, device: torch.device, bf16: bool, minutes: float) -> bool:
    views = {side: np.load(folder / f"latents-{side}.npy", mmap_mode="r") for side in recipe.pictures.sides}
    pairs, words = trained_pairs(), vocabulary(concepts())
    full_side, half_side = recipe.pictures.sides
    torch.manual_seed(recipe.seed)
    network = TextToImage(words).to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng, noise_source = np.random.default_rng((recipe.seed, step)), generator(recipe.seed, step)
        side = full_side if rng.random() < full_size_share(step, recipe.diffusion.steps, recipe) else half_side
        batch = recipe.batch[side]
        rows, columns = rng.integers(0, len(pairs), batch), rng.integers(0, recipe.pictures.views, batch)
        captions = [caption(style, name, recipe.captions, rng) for style, name in (pairs[row] for row in rows)]
        clean = torch.from_numpy(views[side][rows, columns]).to(device).float()
        noise = torch.randn(clean.shape, generator=noise_source).to(device)
        # logit-normal, stratified over the batch
        quantiles = (torch.arange(batch) + torch.rand(batch, generator=noise_source)) / batch
        t = torch.sigmoid(1.3 * torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4))).to(device)
        mix = t[:, None, None, None]
        with autocast(device, bf16):
            velocity = network((1 - mix) * clean + mix * noise, t, captions)
        return (velocity.float() - (noise - clean)).square().mean()

    return train(network, loss_at, recipe.diffusion, folder, minutes)


def load_text_to_image(folder: Path) -> TextToImage:
    network = TextToImage(vocabulary(concepts()))
    network.load_state_dict(averaged_weights(folder))
    return network.eval().requires_grad_(False)
