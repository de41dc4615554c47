"""Does a picture show what its prompt says? Nearest training picture in RGB; position, size and background removed.

judge = Judge.shipped()
judge.right(picture, Prompt.parse("noto red apple on a blue background"))  # (h, w, 3) in 0..1 -> bool
share([True, False, ...])                                                  # with its 95 % interval
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .captions import Prompt
from .config import STYLES

SHIPPED = Path(__file__).parent.parent

SIDE = 64
SHEET_COLUMNS = 24
FOREGROUND = 0.1  # smallest difference from the background, of 1, in any channel
MIN_OBJECT = 0.05  # of two, in shares of their foreground


def background_colour(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) -> (3,): the median of the picture's border, of which an object covers less than half."""
    border = np.concatenate((picture[0], picture[-1], picture[1:-1, 0], picture[1:-1, -1]))
    return np.median(border, axis=0)


def foreground_mask(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) in 0..1 -> (h, w) bool: what differs from the background."""
    return np.abs(picture - background_colour(picture)).max(axis=-1) > FOREGROUND


def foreground_box(mask: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns of the smallest box around the foreground; None when there is none."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def foreground_centre(picture: np.ndarray) -> tuple[float, float] | None:
    """Row and column of the foreground box's centre, in shares of the picture's sides; None for an empty picture."""
    box = foreground_box(foreground_mask(picture))
    if box is None:
        return None
    row, column = ((part.start + part.stop) / 2 / side for part, side in zip(box, picture.shape, strict=False))
    return row, column


def _crop(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    box = foreground_box(mask)
    if box is None:
        return np.ones((SIDE, SIDE, 3), np.float32)
    content = np.where(mask[..., None], picture, np.float32(1))[box]
    height, width = content.shape[:2]
    side = max(height, width)
    square = np.ones((side, side, 3), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = content
    image = Image.fromarray(np.rint(square * 255).astype(np.uint8))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255


def crop_to_foreground(picture: np.ndarray) -> np.ndarray:
    """(h, w, 3) in 0..1 -> the foreground box, centred on a white square, as (64, 64, 3)."""
    return _crop(picture, foreground_mask(picture))


def picture_error(picture: np.ndarray, own: np.ndarray) -> float:
    """Root mean square difference of a (h, w, 3) picture from a crop, either way round, place and size removed."""
    crop = crop_to_foreground(picture)
    return min(float(np.sqrt(np.square(crop - known).mean())) for known in (own, own[:, ::-1]))


def crops_of_two(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The foregrounds of a picture's two halves, parted where both hold some and less lies on the seam."""
    mask = foreground_mask(picture)
    row, column = mask.shape[0] // 2, mask.shape[1] // 2
    above, left = np.s_[:row, :], np.s_[:, :column]
    below, right = np.s_[row:, :], np.s_[:, column:]
    partings = [(above, below, mask[row - 1 : row + 1].mean()), (left, right, mask[:, column - 1 : column + 1].mean())]

    def badness(parting: tuple) -> tuple[bool, float]:
        one, other, on_seam = parting
        return min(mask[one].sum(), mask[other].sum()) < MIN_OBJECT * mask.sum(), on_seam

    one, other, _ = min(partings, key=badness)
    return _crop(picture[one], mask[one]), _crop(picture[other], mask[other])


class Judge:
    """Knows the crop of every training picture by its (style, concept)."""

    def __init__(self, crops: np.ndarray, pairs: Sequence[tuple[str, str]], mirrored: Iterable[str] = ()):
        """`crops` (n, 64, 64, 3) of `pairs`; of the concepts in `mirrored` the mirror images count too."""
        self.crops, self.pairs = crops, list(pairs)
        either_way = set(mirrored)
        turned = [i for i, (_, name) in enumerate(self.pairs) if name in either_way]
        self.categories: dict[str, str] = {}  # of each concept, where known
        self._known = np.concatenate((crops, crops[turned, :, ::-1]))
        self._known_pairs = self.pairs + [self.pairs[i] for i in turned]

    @classmethod
    def from_pictures(
        cls, pictures: Iterable[np.ndarray], pairs: Sequence[tuple[str, str]], mirrored: Iterable[str] = ()
    ) -> Judge:
        return cls(np.stack([crop_to_foreground(picture) for picture in pictures]), pairs, mirrored)

    @classmethod
    def shipped(cls, folder: Path = SHIPPED) -> Judge:
        """The judge of the shipped model, from the files beside its weights."""
        names = json.loads((folder / "concepts.json").read_text(encoding="utf-8"))
        sheet = np.asarray(Image.open(folder / "training_pictures.webp").convert("RGB"), np.float32) / 255
        rows, columns = (length // SIDE for length in sheet.shape[:2])
        crops = sheet.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
        crops = crops[: len(names) * len(STYLES)]
        mirrored = [name for name, known in names.items() if known.get("mirrored")]
        judge = cls(crops, [(style, name) for name in names for style in STYLES], mirrored)
        judge.categories = {name: known["category"] for name, known in names.items()}
        return judge

    def save(self, file: Path) -> None:
        """All crops on one sheet, row by row."""
        rows, columns = -(-len(self.crops) // SHEET_COLUMNS), SHEET_COLUMNS
        crops = np.ones((rows * columns, SIDE, SIDE, 3), np.float32)
        crops[: len(self.crops)] = self.crops
        sheet = crops.reshape(rows, columns, SIDE, SIDE, 3).swapaxes(1, 2).reshape(rows * SIDE, columns * SIDE, 3)
        Image.fromarray(np.rint(sheet * 255).astype(np.uint8)).save(file, quality=90, method=6)

    def nearest_to_crop(self, crop: np.ndarray) -> tuple[str, str]:
        """(style, concept) of the training picture with the least squared distance from a (64, 64, 3) crop."""
        distance = np.square(self._known - crop).mean(axis=(1, 2, 3))
        return self._known_pairs[int(distance.argmin())]

    def nearest(self, picture: np.ndarray) -> tuple[str, str]:
        """(style, concept) of the training picture nearest to a picture of one object."""
        return self.nearest_to_crop(crop_to_foreground(picture))

    def shown(self, picture: np.ndarray, objects: int = 1) -> list[tuple[str, str]]:
        """(style, concept) of each of one or two objects in the picture."""
        crops = crops_of_two(picture) if objects == 2 else (crop_to_foreground(picture),)
        return [self.nearest_to_crop(crop) for crop in crops]

    def right(self, picture: np.ndarray, prompt: Prompt) -> bool:
        """Whether the picture shows the concept, or both concepts, that the prompt names."""
        return sorted(name for _, name in self.shown(picture, len(prompt.names))) == sorted(prompt.names)


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson 1927)."""
    z, share = 1.96, hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def share(hits: Sequence[bool]) -> dict:
    """Share of the true, with its 95 % interval and the number judged."""
    low, high = wilson_interval(sum(hits), len(hits))
    return {
        "share": round(sum(hits) / len(hits), 4),
        "interval95": [round(low, 4), round(high, 4)],
        "n": len(hits),
    }
