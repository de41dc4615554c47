"""Train the autoencoder on every icon of both packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..architecture import Autoencoder
from .config import Recipe
from .host import autocast, generator
from .icons import over_background
from .loop import averaged_weights, train

CROP = 128
BATCH = 16
HELD_OUT = 16  # every sixteenth icon measures the autoencoder and never trains it


def load_corpus(icons: Path) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out pictures, each (n, 256, 256, 4) uint8."""
    corpus = np.load(icons / "corpus.npy", mmap_mode="r")
    held_out = np.arange(len(corpus)) % HELD_OUT == 0
    return corpus[~held_out].reshape(-1, *corpus.shape[2:]), corpus[held_out].reshape(-1, *corpus.shape[2:])


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) in -1..1."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_crop(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A 128-pixel window of an icon at full size, or all of it at half size, mostly over white."""
    background = (255, 255, 255) if rng.random() < 0.6 else rng.integers(0, 256, 3)
    picture = over_background(rgba, background)
    if rng.random() < 0.4:
        side = len(picture)
        return np.rint(picture.reshape(side // 2, 2, side // 2, 2, 3).mean((1, 3))).astype(np.uint8)
    y, x = rng.integers(0, len(picture) - CROP + 1, 2)
    return picture[y : y + CROP, x : x + CROP]


def reconstruction_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of the pictures and, for sharp edges, of their differences between neighbours."""
    error = decoded - pictures
    return error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def train_autoencoder(
    recipe: Recipe, icons: Path, folder: Path, device: torch.device, bf16: bool, minutes: float
) -> bool:
    pictures, _ = load_corpus(icons)
    torch.manual_seed(recipe.seed)
    network = Autoencoder().to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, step))
        rows = rng.integers(0, len(pictures), BATCH)
        target = to_tensor(np.stack([random_crop(pictures[row], rng) for row in rows])).to(device)
        noise = generator(recipe.seed, step)
        with autocast(device, bf16):
            latents = network.encode(target)
            # a resized latent shall decode to the resized picture: mixed resolution upsamples latents
            if rng.random() < 0.3:
                latents = F.interpolate(latents.float(), scale_factor=0.5, mode="bilinear", antialias=True)
                target = F.interpolate(target, scale_factor=0.5, mode="bilinear", antialias=True)
            # and small errors of the denoiser shall not show
            latents = latents + 0.05 * torch.randn(latents.shape, generator=noise).to(latents)
            decoded = network.decode(latents)
        return reconstruction_loss(decoded.float(), target)

    return train(network, loss_at, recipe.autoencoder, folder, minutes)


def load_autoencoder(folder: Path) -> Autoencoder:
    network = Autoencoder()
    network.load_state_dict(averaged_weights(folder))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def reconstruction_psnr(network: Autoencoder, icons: Path) -> float:
    """Mean PSNR in dB over the held-out icons, 256 px on white."""
    _, pictures = load_corpus(icons)
    psnr = []
    for rgba in pictures:
        target = to_tensor(over_background(rgba)[None])
        decoded = network.decode(network.encode(target)).clamp(-1, 1)
        psnr.append(-10 * torch.log10((decoded - target).square().mean() / 4).item())
    return float(np.mean(psnr))
