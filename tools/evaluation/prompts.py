"""Prompts, from a COCO captions file or a text file with one on each line."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class PromptsError(ValueError):
    """The prompts file cannot be used."""


@dataclass(frozen=True)
class Prompt:
    """`index` is its place in the whole file, which decides its seed; `text` is None where the file's entry is bad."""

    index: int
    text: str | None
    source: str  # COCO image id, or line


def read(path: Path) -> list[Prompt]:
    """Every prompt of the file, in order.

    A COCO captions file (`captions_val2014.json`) gives one for each picture: its caption of the lowest id, in order of
    picture ids. Of a text file, empty lines are left out.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptsError(f"The prompts file {path} cannot be read: {error}") from error
    found = _coco(text, path) if path.suffix == ".json" else _lines(text)
    if not found:
        raise PromptsError(f"The prompts file {path} holds no prompt.")
    return [Prompt(index, prompt, source) for index, (prompt, source) in enumerate(found)]


def sample(prompts: list[Prompt], limit: int | None) -> list[Prompt]:
    """`limit` of the prompts, always the same ones, drawn at random without replacement; all if None."""
    if limit is None or limit >= len(prompts):
        return prompts
    return sorted(random.Random(0).sample(prompts, limit), key=lambda prompt: prompt.index)


def _lines(text: str) -> list[tuple[str, str]]:
    return [(line.strip(), f"line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _coco(text: str, path: Path) -> list[tuple[str | None, str]]:
    try:
        annotations = json.loads(text)["annotations"]
        captions: dict[int, tuple[int, Any]] = {}
        for each in annotations:
            image, this = each["image_id"], (each["id"], each.get("caption"))
            captions[image] = min(captions.get(image, this), this, key=lambda pair: pair[0])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PromptsError(
            f"{path} is no COCO captions file, which has annotations with image_id, id and caption "
            f"({type(error).__name__}: {error}). Plain prompts belong in a .txt file, one on each line."
        ) from error
    return [
        (caption.strip() if isinstance(caption, str) and caption.strip() else None, str(image))
        for image, (_, caption) in sorted(captions.items())
    ]
