"""Prompts the model is for: one concept, on a background of some colour, or two concepts; and which it never sees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from math import ceil
from pathlib import Path

import numpy as np

from .config import BACKGROUNDS, STYLES, Captions, Recipe, concepts

STRANGE_WORD = "unheard"  # any word outside the vocabulary: the tokenizer maps them all to <unknown>
ON_A_BACKGROUND = "on a background"
TWO_OBJECTS = "two objects"
ONE_OBJECT = "one object"


@dataclass(frozen=True)
class Prompt:
    """What a picture shall show, as its caption says it."""

    style: str
    names: tuple[str, ...]  # of one concept or two
    background: str | None = None  # a colour's name; None is white

    def __str__(self) -> str:
        background = f" on a {self.background} background" if self.background else ""
        return f"{self.style} {' and '.join(self.names)}{background}"

    @classmethod
    def parse(cls, caption: str) -> Prompt:
        """The prompt a full caption says, as in "noto red apple on a blue background"."""
        style, _, rest = caption.partition(" ")
        background = None
        if rest.endswith(" background"):
            rest, _, colour = rest.removesuffix(" background").rpartition(" on a ")
            background = colour
        return cls(style, tuple(rest.split(" and ")), background)

    @property
    def kind(self) -> str:
        if len(self.names) > 1:
            return TWO_OBJECTS
        return ON_A_BACKGROUND if self.background else ONE_OBJECT


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    names = (word for concept in concepts() for word in concept.name.split())
    return sorted({*STYLES, *BACKGROUNDS, *names, "on", "a", "background", "and"})


@cache
def held_out(recipe: Recipe) -> frozenset[Prompt]:
    """The prompts never trained on. A pair of concepts is held out in both styles and either order."""
    names = [concept.name for concept in concepts()]
    rng = np.random.default_rng(recipe.seed)

    def chosen(of: list) -> list:
        return [of[i] for i in rng.permutation(len(of))[: ceil(recipe.held_out * len(of))]]

    coloured = chosen(list(product(STYLES, names, BACKGROUNDS)))
    on_background = [Prompt(style, (name,), colour) for style, name, colour in coloured]
    pairs = chosen(list(combinations(names, 2)))
    two_objects = [Prompt(style, order) for pair in pairs for order in (pair, pair[::-1]) for style in STYLES]
    return frozenset(on_background + two_objects)


def random_prompt(
    kind: str, names: Sequence[str], rng: np.random.Generator, chances: Mapping[str, np.ndarray] | None = None
) -> Prompt:
    """Any prompt of a kind, held out or not; `chances` of the names, by style, where they are not all alike."""
    style = list(STYLES)[rng.integers(len(STYLES))]
    chance = None if chances is None else chances[style]
    if kind == TWO_OBJECTS:
        return Prompt(style, tuple(names[int(i)] for i in rng.choice(len(names), 2, replace=False, p=chance)))
    colour = list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))] if kind == ON_A_BACKGROUND else None
    return Prompt(style, (names[int(rng.choice(len(names), p=chance))],), colour)


def held_out_file(folder: Path) -> Path:
    """Where the captions never trained on are listed, beside the weights in `folder`."""
    return folder / "held_out.json"


def read_held_out(folder: Path) -> dict[str, list[str]]:
    """The captions never trained on, by kind."""
    return json.loads(held_out_file(folder).read_text(encoding="utf-8"))


def write_held_out(recipe: Recipe, file: Path) -> None:
    """The captions never trained on, by kind."""
    listed: dict[str, list[str]] = {ON_A_BACKGROUND: [], TWO_OBJECTS: []}
    for prompt in held_out(recipe):
        listed[prompt.kind].append(str(prompt))
    listed = {kind: sorted(captions) for kind, captions in listed.items()}
    file.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def training_caption(prompt: Prompt, rates: Captions, rng: np.random.Generator) -> str:
    """The prompt, sometimes without its style, with a word that means nothing, or empty."""
    if rng.random() < rates.empty:
        return ""
    words = str(prompt).split()
    if rng.random() < rates.without_style:
        words = words[1:]
    if rng.random() < rates.unknown_word:
        words.insert(rng.integers(0, len(words) + 1), STRANGE_WORD)
    return " ".join(words)
