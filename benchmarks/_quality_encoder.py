"""A small encoder whose features a Frechet distance is taken in, and how much detail real icons have.

Made by `quality_encoder.py` from icons that the embedded model is never trained on.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, GroupNorm, Linear, Module, Sequential, SiLU

from postdiff.embedded_model.training.judge import foreground_mask

FILE = Path(__file__).parent / "quality_encoder.safetensors"
FEATURES = 64
SIDE = 64


class Encoder(Module):
    """(n, 3, 64, 64) in 0..1, the foreground centred on white -> (n, 64) features."""

    num_features = FEATURES  # torchmetrics asks

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 96)
        self.layers = Sequential(
            *(
                layer
                for narrow, wide in itertools.pairwise(widths)
                for layer in (Conv2d(narrow, wide, 3, stride=2, padding=1), GroupNorm(8, wide), SiLU())
            ),
            AdaptiveAvgPool2d(2),
            Flatten(),
            Linear(4 * widths[-1], FEATURES),
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures * 2 - 1)


class RealPictures:
    """The shipped encoder, and the detail of every real icon by (style, icon name)."""

    def __init__(self, file: Path = FILE) -> None:
        with safe_open(file, "pt") as stored:
            about = json.loads(stored.metadata()["about"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  (not a dict)
        detail = tensors.pop("detail").tolist()
        self.trained_on = frozenset(about["trained_on"])
        places = ((style, icon) for icon in about["icons"] for style in about["styles"])
        self.detail = dict(zip(places, detail, strict=True))
        self.encoder = Encoder().eval().requires_grad_(False)
        self.encoder.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})

    def check_split(self, drawn: set[tuple[str, str]]) -> None:
        """Raise ValueError if the encoder has seen (style, icon) pictures the model draws, or lacks their detail."""
        wrong = sorted({icon for _style, icon in drawn} & self.trained_on) or sorted(drawn - self.detail.keys())
        if wrong:
            raise ValueError(
                f"{FILE.name} was made for other icons than the model draws (see {wrong[0]}). "
                "Run `python dev.py bench quality_encoder`."
            )


def detail(picture: np.ndarray) -> float:
    """Laplacian energy of the luminance of (h, w, 3) in 0..1, per pixel of the foreground box's half perimeter.

    Edges grow with the side of what is drawn, so that this hardly depends on where and how large it is.
    """
    luminance = np.pad(picture @ np.array((0.299, 0.587, 0.114), np.float32), 1, mode="edge")
    around = luminance[:-2, 1:-1] + luminance[2:, 1:-1] + luminance[1:-1, :-2] + luminance[1:-1, 2:]
    energy = np.square(around - 4 * luminance[1:-1, 1:-1]).sum()
    foreground = foreground_mask(picture)
    return float(energy / max(1, foreground.any(axis=0).sum() + foreground.any(axis=1).sum()))
