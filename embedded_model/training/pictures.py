"""Training pictures: an icon at random positions and scales on white, and its captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..architecture import DOWNSCALE, Autoencoder
from .autoencoder import to_tensor
from .config import STYLES, Captions, Concept, Pictures, Recipe, concepts
from .icons import over_background

STRANGE_WORD = "unheard"  # any word outside the vocabulary: the tokenizer maps them all to <unknown>


def place(icon: Image.Image, side: int, size: int, x: int, y: int) -> np.ndarray:
    """The icon (RGBA) at `size` pixels on a white square picture, its upper left corner at (x, y)."""
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    canvas.paste(icon.resize((size, size), Image.Resampling.LANCZOS), (x, y))
    return over_background(np.asarray(canvas))


def random_view(icon: Image.Image, side: int, pictures: Pictures, rng: np.random.Generator) -> np.ndarray:
    """The icon somewhere on the latent grid: there its latents are the same wherever it lies, only shifted."""
    size = round(side * pictures.scale)
    x, y = DOWNSCALE * rng.integers(0, (side - size) // DOWNSCALE + 1, 2)
    return place(icon, side, size, int(x), int(y))


def caption(style: str, name: str, rates: Captions, rng: np.random.Generator) -> str:
    """`<style> <name>`, sometimes without the style, with a word that means nothing, or empty."""
    if rng.random() < rates.empty:
        return ""
    words = name.split() if rng.random() < rates.without_style else [style, *name.split()]
    if rng.random() < rates.unknown_word:
        words.insert(rng.integers(0, len(words) + 1), STRANGE_WORD)
    return " ".join(words)


def vocabulary(trained: list[Concept]) -> list[str]:
    """Every word of every caption, sorted."""
    return sorted({*STYLES, *(word for concept in trained for word in concept.name.split())})


@torch.no_grad()
def encode_views(recipe: Recipe, autoencoder: Autoencoder, icons: Path, folder: Path) -> None:
    """Write `latents-<side>.npy`, (concepts * styles, views, 8, side / 8, side / 8) float16, for every trained side."""
    folder.mkdir(parents=True, exist_ok=True)
    rgba = np.load(icons / "concepts.npy", mmap_mode="r")
    rgba = rgba.reshape(-1, *rgba.shape[2:])
    for side in recipe.pictures.sides:
        file = folder / f"latents-{side}.npy"
        if file.exists():
            continue
        latents = []
        for row, icon in enumerate(tqdm(rgba, desc=f"encoding {side} px views", unit="icon")):
            rng = np.random.default_rng((recipe.seed, side, row))
            image = Image.fromarray(icon)
            views = np.stack([random_view(image, side, recipe.pictures, rng) for _ in range(recipe.pictures.views)])
            latents.append(autoencoder.encode(to_tensor(views)).half().numpy())
        part = file.with_suffix(".part")
        with part.open("wb") as handle:
            np.save(handle, np.stack(latents))
        part.rename(file)


def trained_pairs() -> list[tuple[str, str]]:
    """(style, name) of every row of the encoded latents."""
    return [(style, concept.name) for concept in concepts() for style in STYLES]
