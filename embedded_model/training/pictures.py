"""Training pictures: one icon or two at a few places and sizes on a plain background, composed of encoded patches.

An icon's latents depend on its surroundings only nearby, so each icon is encoded once a size and background, and a
picture is a blank one's latents plus the patches' differences from blank: a training step never waits for pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..architecture import DOWNSCALE, Autoencoder
from .autoencoder import to_tensor
from .captions import ON_A_BACKGROUND, ONE_OBJECT, TWO_OBJECTS, Prompt, held_out, random_prompt
from .config import BACKGROUNDS, STYLES, WHITE, Pictures, Recipe, concepts
from .icons import over_background

EIGHTHS = 8
MARGIN = 2  # latent cells beyond an icon's box that still differ from blank
SURROUNDINGS = 3  # latent cells of background encoded around an icon, so that the border does not show in its latents


@dataclass(frozen=True)
class Item:
    """An icon in a picture: sides and upper left corner in eighths of the picture's side."""

    style: str
    name: str
    mirrored: bool
    size: int
    x: int
    y: int


@dataclass(frozen=True)
class Scene:
    prompt: Prompt
    items: tuple[Item, ...]


def appearances() -> list[tuple[str, str, bool]]:
    """(style, name, mirrored) of every picture of an icon, in the order of the patches."""
    return [
        (style, concept.name, mirrored)
        for concept in concepts()
        for style in STYLES
        for mirrored in ((False, True) if concept.mirrored else (False,))
    ]


def draw_prompt(recipe: Recipe, rng: np.random.Generator, chances: Mapping[str, np.ndarray] | None = None) -> Prompt:
    """A prompt of one of the three kinds that is not held out; `chances` of the names, by style."""
    settings, names = recipe.pictures, [concept.name for concept in concepts()]
    kinds = (TWO_OBJECTS, ON_A_BACKGROUND, ONE_OBJECT)
    shares = (settings.two_objects, settings.on_background, 1 - settings.two_objects - settings.on_background)
    kind = kinds[rng.choice(len(kinds), p=shares)]
    while (prompt := random_prompt(kind, names, rng, chances)) in held_out(recipe):
        pass
    return prompt


@cache
def mirrored_names() -> frozenset[str]:
    return frozenset(concept.name for concept in concepts() if concept.mirrored)


def draw_scene(prompt: Prompt, settings: Pictures, rng: np.random.Generator) -> Scene:
    """The prompt's icons at random places: one at either size, two small ones in opposite halves."""

    def item(name: str, size: int, x: int, y: int) -> Item:
        return Item(prompt.style, name, name in mirrored_names() and bool(rng.integers(2)), size, x, y)

    def place(size: int) -> int:
        return int(rng.integers(settings.places)) * (EIGHTHS - size) // (settings.places - 1)

    if len(prompt.names) == 1:
        size = settings.small if rng.random() < settings.small_share else settings.large
        return Scene(prompt, (item(prompt.names[0], size, place(size), place(size)),))
    beside, size = rng.integers(2), settings.small
    halves = (0, EIGHTHS - size) if rng.integers(2) else (EIGHTHS - size, 0)
    corners = [(half, place(size)) if beside else (place(size), half) for half in halves]
    return Scene(prompt, tuple(item(name, size, *corner) for name, corner in zip(prompt.names, corners, strict=True)))


def paste(scene: Scene, side: int, icon_of: dict[tuple[str, str], Image.Image]) -> np.ndarray:
    """The scene in pixels, (side, side, 3) uint8, of RGBA icons by (style, name)."""
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    for item in scene.items:
        pixels = item.size * side // EIGHTHS
        icon = icon_of[item.style, item.name].resize((pixels, pixels), Image.Resampling.LANCZOS)
        if item.mirrored:
            icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas.paste(icon, (item.x * side // EIGHTHS, item.y * side // EIGHTHS))
    background = scene.prompt.background
    return over_background(np.asarray(canvas), BACKGROUNDS[background] if background else WHITE)


def patch_file(folder: Path, side: int, size: int) -> Path:
    return folder / f"patches-{side}-{size}.npy"


def blank(autoencoder: Autoencoder, side: int) -> torch.Tensor:
    """Latents of a plain square in every background, white first: (backgrounds, 8, side / 8, side / 8)."""
    colours = np.array([WHITE, *BACKGROUNDS.values()], np.uint8)
    return autoencoder.encode(to_tensor(np.broadcast_to(colours[:, None, None], (len(colours), side, side, 3))))


@torch.no_grad()
def encode_patches(recipe: Recipe, autoencoder: Autoencoder, icons: Path, folder: Path) -> None:
    """Write what each icon adds to a blank picture's latents, for every side and size, as
    `patches-<side>-<size>.npy`, (appearances, backgrounds, 8, cells, cells) float16, and `blanks-<side>.npy`."""
    folder.mkdir(parents=True, exist_ok=True)
    forget_other_patches(folder, autoencoder)
    rgba = np.load(icons / "concepts.npy", mmap_mode="r")
    rows = {(c.name, style): (i, j) for i, c in enumerate(concepts()) for j, style in enumerate(STYLES)}
    for side in recipe.pictures.sides:
        np.save(folder / f"blanks-{side}.npy", blank(autoencoder, side).half().numpy())
        for size in (recipe.pictures.small, recipe.pictures.large):
            file = patch_file(folder, side, size)
            if file.exists():
                continue
            pixels = side * size // EIGHTHS
            cells = pixels // DOWNSCALE + 2 * MARGIN
            empty = blank(autoencoder, pixels + 2 * SURROUNDINGS * DOWNSCALE)
            part = file.with_suffix(".part")
            shape = (len(appearances()), len(empty), empty.shape[1], cells, cells)
            patches = np.lib.format.open_memmap(part, "w+", np.float16, shape)
            label = f"encoding {pixels} px icons for {side} px"
            for number, (style, name, mirrored) in enumerate(tqdm(appearances(), desc=label, unit="icon")):
                icon = Image.fromarray(rgba[rows[name, style]])
                patches[number] = encode_icon(icon, pixels, mirrored, autoencoder, empty).numpy()
            del patches  # written, and closed: an open file cannot be renamed everywhere
            part.replace(file)


def forget_other_patches(folder: Path, autoencoder: Autoencoder) -> None:
    """Delete patches of other icons or backgrounds, or by another autoencoder: of another version of the recipe."""
    encoder = hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in autoencoder.state_dict().values()))
    contents = json.dumps(
        {"appearances": appearances(), "backgrounds": BACKGROUNDS, "autoencoder": encoder.hexdigest()}
    )
    listed = folder / "contents.json"
    if not listed.exists() or listed.read_text(encoding="utf-8") != contents:
        for file in folder.glob("patches-*.npy"):
            file.unlink()
        listed.write_text(contents, encoding="utf-8")


def encode_icon(
    icon: Image.Image, pixels: int, mirrored: bool, autoencoder: Autoencoder, empty: torch.Tensor
) -> torch.Tensor:
    """The difference of an icon's latents from blank in every background: (backgrounds, 8, cells, cells)."""
    icon = icon.resize((pixels, pixels), Image.Resampling.LANCZOS)
    if mirrored:
        icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side, corner = pixels + 2 * SURROUNDINGS * DOWNSCALE, SURROUNDINGS * DOWNSCALE
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(icon, (corner, corner))
    pictures = np.stack([over_background(np.asarray(canvas), colour) for colour in (WHITE, *BACKGROUNDS.values())])
    cut = slice(SURROUNDINGS - MARGIN, MARGIN - SURROUNDINGS)
    return (autoencoder.encode(to_tensor(pictures)) - empty)[..., cut, cut].half()


class Composer:
    """Latents of scenes, out of the encoded patches."""

    def __init__(self, settings: Pictures, folder: Path):
        self.blanks = {
            side: torch.from_numpy(np.load(folder / f"blanks-{side}.npy")).float() for side in settings.sides
        }
        self.patches = {
            (side, size): np.load(patch_file(folder, side, size), mmap_mode="r")
            for side in settings.sides
            for size in (settings.small, settings.large)
        }
        self.row = {appearance: row for row, appearance in enumerate(appearances())}
        self.background = {name: i for i, name in enumerate((None, *BACKGROUNDS))}

    def latents(self, scene: Scene, side: int) -> torch.Tensor:
        """(8, side / 8, side / 8)"""
        background = self.background[scene.prompt.background]
        latents = self.blanks[side][background].clone()
        cells = side // DOWNSCALE
        for item in scene.items:
            row = self.row[item.style, item.name, item.mirrored]
            patch = torch.from_numpy(self.patches[side, item.size][row, background].copy())
            top, left = (corner * cells // EIGHTHS - MARGIN for corner in (item.y, item.x))
            bottom, right = top + patch.shape[-2], left + patch.shape[-1]
            visible = patch[:, max(0, -top) : cells - top, max(0, -left) : cells - left]
            latents[:, max(0, top) : bottom, max(0, left) : right] += visible
        return latents
