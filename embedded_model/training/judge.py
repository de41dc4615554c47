"""Does a picture show what its prompt says? Nearest training picture in RGB, position and size removed."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

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
    """Knows every training picture by its (style, concept)."""

    def __init__(self, pictures: np.ndarray, pairs: list[tuple[str, str]]):
        self.pairs = pairs
        self.references = np.stack([crop_to_foreground(picture).ravel() for picture in pictures])

    def nearest(self, picture: np.ndarray) -> tuple[str, str]:
        """(style, concept) of the training picture with the least squared distance."""
        distance = np.square(self.references - crop_to_foreground(picture).ravel()).mean(axis=1)
        return self.pairs[int(distance.argmin())]


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson 1927)."""
    z, share = 1.96, hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return centre - half, centre + half
