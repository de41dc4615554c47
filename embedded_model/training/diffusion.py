"""Train the denoiser and the text encoder on encoded views, by flow matching."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..architecture import TEXT_ENCODER, UNET, TextEncoder, build_unet, text_encoder_config, tokenizer_class, zero
from ..loader import TEXT_PREFIX, UNET_PREFIX, take
from .captions import training_caption, vocabulary
from .config import Recipe
from .host import autocast, generator
from .loop import averaged_weights, train
from .pictures import Composer, draw_prompt, draw_scene

TIMESTEP_SCALE = 1000  # ComfyUI's flow models see t * 1000


class TextToImage(nn.Module):
    """U-Net and text encoder as ComfyUI runs them, made trainable."""

    def __init__(self, words: list[str]):
        super().__init__()
        self.unet = build_unet(UNET, dtype=torch.float32)
        self.text_encoder = TextEncoder(text_encoder_config(words), dtype=torch.float32)
        self.tokenizer = tokenizer_class(words, TEXT_ENCODER["max_position_embeddings"], TEXT_ENCODER["hidden_size"])()
        initialise(self)
        trainable(self)
        for name, module in self.text_encoder.clip_emoji.transformer.text_model.named_modules():
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


def size_shares(step: int, recipe: Recipe) -> tuple[float, ...]:
    """Chance of each side at a step."""
    return max(entry for entry in recipe.sizes if entry[0] <= step)[1]


def draw_times(batch: int, source: torch.Generator) -> torch.Tensor:
    """Flow times in 0..1, logit-normal, stratified over the batch."""
    quantiles = (torch.arange(batch) + torch.rand(batch, generator=source)) / batch
    return torch.sigmoid(1.3 * torch.special.ndtri(quantiles.clamp(1e-4, 1 - 1e-4)))


class FlowMatching:
    """The training loss: how far the predicted velocity is from noise minus picture."""

    def __init__(
        self,
        network: TextToImage,
        recipe: Recipe,
        patches: Path,
        device: torch.device,
        bf16: bool,
        chances: Mapping[str, np.ndarray] | None = None,
    ):
        self.chances = chances
        self.network, self.recipe, self.device, self.bf16 = network, recipe, device, bf16
        self.composer = Composer(recipe.pictures, patches)

    def pictures(self, side: int, rng: np.random.Generator) -> tuple[torch.Tensor, list[str]]:
        """A batch of clean latents and its captions."""
        recipe = self.recipe
        prompts = [draw_prompt(recipe, rng, self.chances) for _ in range(recipe.batch[side])]
        scenes = [draw_scene(prompt, recipe.pictures, rng) for prompt in prompts]
        captions = [training_caption(prompt, recipe.captions, rng) for prompt in prompts]
        return torch.stack([self.composer.latents(scene, side) for scene in scenes]), captions

    def loss(self, clean: torch.Tensor, captions: list[str], t: torch.Tensor, source: torch.Generator) -> torch.Tensor:
        noise = torch.randn(clean.shape, generator=source).to(self.device)
        clean, t = clean.to(self.device), t.to(self.device)
        mix = t[:, None, None, None]
        with autocast(self.device, self.bf16):
            velocity = self.network((1 - mix) * clean + mix * noise, t, captions)
        return (velocity.float() - (noise - clean)).square().mean()

    def any_size(self, step: int) -> torch.Tensor:
        """The loss of one step at one size."""
        rng, source = np.random.default_rng((self.recipe.seed, step)), generator(self.recipe.seed, step)
        side = int(rng.choice(self.recipe.pictures.sides, p=size_shares(step, self.recipe)))
        clean, captions = self.pictures(side, rng)
        return self.loss(clean, captions, draw_times(len(captions), source), source)

    def weak_icons(self, step: int) -> torch.Tensor:
        """The loss of one step on the pictures that `chances` prefers, noisier at the full side."""
        recipe, plan = self.recipe, self.recipe.weak_icons
        rng, source = np.random.default_rng((recipe.seed, 2, step)), generator(recipe.seed + 2, step)
        side = int(rng.choice(recipe.pictures.sides, p=plan.sizes))
        clean, captions = self.pictures(side, rng)
        t = draw_times(len(captions), source)
        if side == max(recipe.pictures.sides):
            t = plan.odds_of_noise * t / (1 + (plan.odds_of_noise - 1) * t)
        return self.loss(clean, captions, t, source)

    def scheduled_size(self, step: int) -> torch.Tensor:
        """The loss of one step of the resolution schedule (Appendix F): noisy pictures at half size, others at full."""
        recipe = self.recipe
        rng, source = np.random.default_rng((recipe.seed, 1, step)), generator(recipe.seed + 1, step)
        full_side, half_side = recipe.pictures.sides[:2]
        noisy = rng.random() < 0.5
        clean, captions = self.pictures(half_side if noisy else full_side, rng)
        t = draw_times(2 * len(captions), source).sort().values  # the switch halves the distribution of times
        return self.loss(clean, captions, t[len(captions) :] if noisy else t[: len(captions)], source)


def train_diffusion(
    recipe: Recipe, folder: Path, patches: Path, device: torch.device, bf16: bool, minutes: float
) -> bool:
    torch.manual_seed(recipe.seed)
    network = TextToImage(vocabulary()).to(device)
    problem = FlowMatching(network, recipe, patches, device, bf16)
    return train(network, problem.any_size, recipe.diffusion, folder, minutes)


def tune_to_schedule(
    recipe: Recipe, trained: Path, folder: Path, patches: Path, device: torch.device, bf16: bool, minutes: float
) -> bool:
    """Fine-tune the trained denoiser as mixed-resolution sampling uses it."""
    network = trainable(load_text_to_image(trained)).to(device)
    problem = FlowMatching(network, recipe, patches, device, bf16)
    return train(network, problem.scheduled_size, recipe.schedule_tuning, folder, minutes)


def tune_to_weak_icons(
    recipe: Recipe,
    weights: Path,
    chances: Mapping[str, np.ndarray],
    folder: Path,
    patches: Path,
    device: torch.device,
    bf16: bool,
    minutes: float,
) -> bool:
    """Go on from exported weights with the icons that these draw wrong shown more often."""
    network = trainable(load_exported(weights)).to(device)
    problem = FlowMatching(network, recipe, patches, device, bf16, chances)
    return train(network, problem.weak_icons, recipe.weak_tuning, folder, minutes)


def trainable(network: TextToImage) -> TextToImage:
    network.requires_grad_(True)
    network.text_encoder.requires_grad_(False).clip_emoji.transformer.text_model.requires_grad_(True)
    return network


def load_exported(weights: Path) -> TextToImage:
    """The denoiser and the text encoder of an exported file, in 32 bit."""
    network, exported = TextToImage(vocabulary()), load_file(weights)
    for module, prefix in ((network.unet, UNET_PREFIX), (network.text_encoder, TEXT_PREFIX)):
        module.load_state_dict(take(exported, prefix))
    return network.eval().requires_grad_(False)


def load_text_to_image(folder: Path) -> TextToImage:
    network = TextToImage(vocabulary())
    network.load_state_dict(averaged_weights(folder))
    return network.eval().requires_grad_(False)
