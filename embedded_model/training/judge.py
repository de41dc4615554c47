"""Does a picture show what its prompt says? Nearest training picture in RGB, position and size removed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from .config import STYLES

SHIPPED = Path(__file__).parent.parent

SIDE = 64
FOREGROUND = 0.1  # smallest difference from white, of 1, in any channel


def crop_to_foreground(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) in 0..1 on white -> the foreground box, centred on a white square, as (64, 64, 3)."""
    foreground = (1 - picture).max(axis=-1) > FOREGROUND
    if not foreground.any():
        return np.ones((SIDE, SIDE, 3), np.float32)
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    box = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape[:2]
    side = max(height, width)
    square = np.ones((side, side, 3), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = box
    image = Image.fromarray(np.rint(square * 255).astype(np.uint8))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255


class Judge:
    """Knows the crop of every training picture by its (style, concept)."""

    def __init__(self, crops: np.ndarray, pairs: list[tuple[str, str]]):
        self.crops, self.pairs = crops, pairs

    @classmethod
    def from_pictures(cls, pictures: Iterable[np.ndarray], pairs: list[tuple[str, str]]) -> Judge:
        return cls(np.stack([crop_to_foreground(picture) for picture in pictures]), pairs)

    @classmethod
    def shipped(cls, folder: Path = SHIPPED) -> Judge:
        """The judge of the shipped model, from the files beside its weights."""
        names = json.loads((folder / "concepts.json").read_text())
        sheet = np.asarray(Image.open(folder / "training_pictures.webp").convert("RGB"), np.float32) / 255
        rows, columns = len(names), len(STYLES)
        crops = sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
        return cls(crops, [(style, name) for name in names for style in STYLES])

    def save(self, file: Path) -> None:
        """One row a concept, one column a style."""
        rows, columns = len(self.crops) // len(STYLES), len(STYLES)
        sheet = self.crops.reshape(rows, columns, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE, 3)
        Image.fromarray(np.rint(sheet * 255).astype(np.uint8)).save(file, quality=90, method=6)

    def nearest(self, picture: np.ndarray) -> tuple[str, str]:
        """(style, concept) of the training picture with the least squared distance."""
        distance = np.square(self.crops - crop_to_foreground(picture)).mean(axis=(1, 2, 3))
        return self.pairs[int(distance.argmin())]


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson 1927)."""
    z, share = 1.96, hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)
