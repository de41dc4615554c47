"""A calibration as a picture: score against work with the chosen settings marked, and examples of both runs below."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from PIL import Image, ImageDraw, ImageFont

from ..report_picture import COMPUTED, CROSS_ATTENTION, INK, REUSED
from .calibration import Result, Row

PAPER, MUTED, GRID = "#ffffff", "#7a7a7a", "#ebebeb"
TRIED, MEASURED, CHOSEN = REUSED, COMPUTED, CROSS_ATTENTION  # pale blue, blue, orange

OVERSAMPLING = 2  # drawn larger and reduced: smooth edges
WIDTH, MARGIN, GAP = 1200, 40, 16
PLOT_HEIGHT, LEFT_OF_PLOT, BELOW_PLOT = 400, 60, 84
MAX_EXAMPLES = 4
_SMOOTH = Image.Resampling.LANCZOS


class Example(NamedTuple):
    """One prompt, drawn by the stock run and by the chosen settings with the same seed."""

    prompt: str
    stock: Image.Image
    chosen: Image.Image


@dataclass(frozen=True)
class Axis:
    """Values laid out on a line of pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Four to nine round values."""
        rough = (self.high - self.low) / 6
        size = 10 ** math.floor(math.log10(rough))
        step = next(size * each for each in (1, 2, 2.5, 5, 10) if size * each >= rough)
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


class Pen:
    """Draws on an oversampled canvas, in units of the finished picture."""

    def __init__(self, height: float) -> None:
        self._image = Image.new("RGB", (WIDTH * OVERSAMPLING, round(height * OVERSAMPLING)), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, x: float, y: float, words: str, size: float, colour: str = INK, anchor: str = "la") -> None:
        self._draw.text(_scaled(x, y), words, colour, _font(size), anchor)

    def length(self, words: str, size: float) -> float:
        return self._draw.textlength(words, _font(size)) / OVERSAMPLING

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float) -> None:
        self._draw.line([_scaled(*point) for point in points], colour, round(width * OVERSAMPLING), joint="curve")

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        self._draw.circle(_scaled(x, y), radius * OVERSAMPLING, colour)

    def diamond(self, x: float, y: float, radius: float, colour: str) -> None:
        corners = ((x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y))
        self._draw.polygon([_scaled(*corner) for corner in corners], colour)

    def picture(self, picture: Image.Image, x: float, y: float, width: float, height: float) -> None:
        fitted = picture.convert("RGB").resize((round(width * OVERSAMPLING), round(height * OVERSAMPLING)), _SMOOTH)
        left, top = _scaled(x, y)
        self._image.paste(fitted, (round(left), round(top)))

    def finished(self) -> Image.Image:
        return self._image.resize((self._image.width // OVERSAMPLING, self._image.height // OVERSAMPLING), _SMOOTH)


def draw(result: Result, title: str, examples: Sequence[Example]) -> Image.Image:
    """The calibration as an RGB picture, 1200 pixels wide."""
    examples = examples[:MAX_EXAMPLES]
    head = [(line, 15, INK) for line in _wrapped([_outcome(result), _reason(result)], 128)]
    head += [(line, 13, MUTED) for line in _wrapped(result.notes, 150)]
    top = MARGIN + 40 + 23 * len(head) + 2 * GAP
    plot_end = top + PLOT_HEIGHT + BELOW_PLOT
    side = (WIDTH - 2 * MARGIN - LEFT_OF_PLOT - (MAX_EXAMPLES - 1) * GAP) / MAX_EXAMPLES
    tall = side * examples[0].stock.height / examples[0].stock.width if examples else 0
    pen = Pen(plot_end + MARGIN + (2 * tall + 3 * GAP + 44 if examples else 0))

    pen.text(MARGIN, MARGIN - 8, title, 24)
    for number, (line, size, colour) in enumerate(head):
        pen.text(MARGIN, MARGIN + 34 + 23 * number, line, size, colour)
    _plot(pen, result, top)
    for number, example in enumerate(examples):
        x = MARGIN + LEFT_OF_PLOT + number * (side + GAP)
        _example(pen, example, x, plot_end + GAP, side, tall)
    for row, name in enumerate(("stock", "chosen") if examples else ()):
        y = plot_end + GAP + row * (tall + GAP) + tall / 2
        pen.text(MARGIN, y, name, 14, CHOSEN if name == "chosen" else INK, "lm")
    return pen.finished()


def _outcome(result: Result) -> str:
    chosen = result.chosen
    words = f"Chosen: {chosen.candidate}: {chosen.times_less_work:.2f} times less work than the stock run"
    if result.stock and result.gain:
        return (
            f"{words}, {result.score_name} {chosen.score:.2f} against {result.stock.score:.2f} "
            f"({result.gain.mean:+.2f} ± {result.gain.error:.2f})."
        )
    return f"{words}, {result.score_name} {chosen.score:.2f}."


def _reason(result: Result) -> str:
    drawn = sum(row.pictures for row in result.rows)
    found = f"The best of {len(result.rows)} settings on {drawn} pictures, or a cheaper one within one standard error."
    return found if result.complete else f"{found} The time ran out: queue again to go on."


def _plot(pen: Pen, result: Result, top: float) -> None:
    rows = sorted(result.rows, key=lambda row: row.pictures)
    most = max(row.pictures for row in rows)
    well_measured = [row for row in rows if 2 * row.pictures >= most]
    x, y = _axes(result, well_measured, top)
    _grid(pen, x, y, result.score_name)
    shown = [row for row in rows if row.score >= y.low]
    for row in shown:
        if row not in well_measured:
            pen.disc(x(row.times_less_work), y(row.score), 4, TRIED)
    frontier = _frontier(well_measured)
    pen.line([(x(row.times_less_work), y(max(row.score, y.low))) for row in frontier], MEASURED, 2)
    for row in [row for row in shown if row in well_measured and row != result.chosen]:
        _point(pen, x, y, row, MEASURED, 5)
    if result.stock:
        pen.diamond(x(1.0), y(result.stock.score), 8, INK)
    _point(pen, x, y, result.chosen, CHOSEN, 9)
    dropped = len(rows) - len(well_measured)
    _legend(pen, y.start + BELOW_PLOT - 14, result.stock is not None, dropped, len(rows) - len(shown))


def _axes(result: Result, well_measured: Sequence[Row], top: float) -> tuple[Axis, Axis]:
    """Work across, score up. The worst of what was dropped early may lie below the plot."""
    speed = [row.times_less_work for row in result.rows] + ([1.0] if result.stock else [])
    scores = [row.score for row in well_measured] + ([result.stock.score] if result.stock else [])
    low, high = min(scores), max(scores)
    room = max(high - low, 1e-3 * max(abs(high), 1e-3))
    dropped = [row.score for row in result.rows if row.score >= low - 1.5 * room]
    low, high = min([low, *dropped]) - 0.1 * room, max([high, *dropped]) + 0.1 * room
    width = max(max(speed) - min(speed), 0.1)
    right, bottom = WIDTH - MARGIN, top + PLOT_HEIGHT
    across = Axis(min(speed) - 0.04 * width, max(speed) + 0.04 * width, MARGIN + LEFT_OF_PLOT, right)
    return across, Axis(low, high, bottom, top)


def _grid(pen: Pen, x: Axis, y: Axis, score: str) -> None:
    for value in y.ticks():
        pen.line([(x.start, y(value)), (x.end, y(value))], GRID, 1)
        pen.text(x.start - 10, y(value), f"{value:g}", 13, MUTED, "rm")
    for value in x.ticks():
        pen.line([(x(value), y.start), (x(value), y.end)], GRID, 1)
        pen.text(x(value), y.start + 8, f"{value:g}x", 13, MUTED, "ma")
    pen.line([(x.start, y.start), (x.end, y.start)], MUTED, 1)
    pen.text(x.start, y.end - 8, f"{score} (higher is better)", 14, INK, "ls")
    pen.text(x.end, y.start + 28, "times less work than the stock run", 14, INK, "ra")


def _frontier(rows: Sequence[Row]) -> list[Row]:
    """Those that no other row beats in both, from the dearest to the cheapest."""
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.share, -row.score)):
        if not kept or row.score > kept[-1].score:
            kept.append(row)
    return kept[::-1]


def _point(pen: Pen, x: Axis, y: Axis, row: Row, colour: str, radius: float) -> None:
    across, up = x(row.times_less_work), y(row.score)
    if row.error:
        ends = [min(max(y(row.score + sign * row.error), y.end), y.start) for sign in (-1, 1)]
        pen.line([(across, ends[0]), (across, ends[1])], colour, 1.5)
    pen.disc(across, up, radius + 2, PAPER)
    pen.disc(across, up, radius, colour)


def _legend(pen: Pen, y: float, with_stock: bool, dropped: int, hidden: int) -> None:
    entries = [(CHOSEN, "chosen"), (MEASURED, "well measured, ± one standard error of the difference from the chosen")]
    entries += [(INK, "stock run")] if with_stock else []
    entries += [(TRIED, "dropped early" + (f" ({hidden} below the plot)" if hidden else ""))] if dropped else []
    x = float(MARGIN + LEFT_OF_PLOT)
    for colour, words in entries:
        if words == "stock run":
            pen.diamond(x + 6, y, 7, colour)
        else:
            pen.disc(x + 6, y, 5, colour)
        pen.text(x + 18, y, words, 13, INK, "lm")
        x += 18 + pen.length(words, 13) + 26


def _example(pen: Pen, example: Example, x: float, y: float, width: float, height: float) -> None:
    pen.picture(example.stock, x, y, width, height)
    pen.picture(example.chosen, x, y + height + GAP, width, height)
    lines = textwrap.wrap(example.prompt, 40)
    shown = [lines[0], lines[1] + (" ..." if len(lines) > 2 else "")] if len(lines) > 1 else lines
    for number, line in enumerate(shown):
        pen.text(x, y + 2 * height + GAP + 8 + 17 * number, line, 13, MUTED)


def _wrapped(texts: Sequence[str], width: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, width)]


def _scaled(x: float, y: float) -> tuple[float, float]:
    return x * OVERSAMPLING, y * OVERSAMPLING


@lru_cache
def _font(size: float) -> Any:
    return ImageFont.load_default(size * OVERSAMPLING)
