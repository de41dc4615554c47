"""Pictures as the canvas takes them."""

from __future__ import annotations

import numpy
import torch
from PIL import Image


def as_image(picture: Image.Image) -> torch.Tensor:
    """An RGB picture as an IMAGE: (1, height, width, 3) in 0..1."""
    return torch.from_numpy(numpy.asarray(picture).copy()).float()[None] / 255
