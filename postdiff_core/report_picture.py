"""A run's report as a picture: one bar a step, as tall as the seconds it took, narrow at low resolution."""

from __future__ import annotations

import textwrap
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .architecture import size_ratio
from .report import summary

# The colours of web/style.js, on white: blue and orange stay apart under every common colour blindness.
INK = "#222222"
FAINT = "#d8d8d8"
COMPUTED = "#1f6fb5"
REUSED = "#bcd4e9"
CROSS_ATTENTION = "#b85c00"
CROSS_ATTENTION_REUSED = "#f0dcc8"

WIDTH, BARS, LANE, MARGIN, GAP = 960, 220, 16, 24, 8
CHARACTERS, MAX_NOTES = 110, 6  # of a line, and of notes that are shown
LEGEND = (
    (COMPUTED, "all blocks computed"),
    (REUSED, "deep branch reused"),
    (CROSS_ATTENTION, "cross-attention computed"),
    (CROSS_ATTENTION_REUSED, "reused"),
    (INK, "guidance on"),
    (FAINT, "off"),
)


def draw(report: dict[str, Any]) -> Image.Image:
    """The report (see report.py) as an RGB picture: seconds a step, and what each step computed."""
    lines = [line for text in _headline(report) for line in textwrap.wrap(text, CHARACTERS)]
    top = MARGIN + 24 * len(lines) + GAP
    image = Image.new("RGB", (WIDTH, top + BARS + 2 * (LANE + GAP) + 76), "white")
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN - 8 + 24 * number), line, INK, ImageFont.load_default(17 if number == 0 else 14))
    seconds = [step["seconds"] or 0.0 for step in report["steps"]]
    slowest = max(seconds, default=0.0) or 1.0
    for index, (step, spent) in enumerate(zip(report["plan"], seconds, strict=True)):
        left, right = _columns(index, len(seconds))
        inset = (1 - _side(step, report)) * (right - left) / 2
        _bar(pen, step, left + inset, right - inset, top, spent / slowest)
        _lanes(pen, step, left, right, top + BARS + GAP)
        if len(seconds) <= 30:
            middle = (left + right) / 2
            pen.text((middle, _bar_top(top, spent / slowest) - 2), f"{spent:.2f}", INK, _small(), "md")
            pen.text((middle, top + BARS + 2 * (LANE + GAP) + 2), str(index + 1), INK, _small(), "ma")
    _legend(pen, image.height - MARGIN - 8)
    return image


def draw_text(text: str) -> Image.Image:
    """What there is to say in place of a report."""
    lines = textwrap.wrap(text, CHARACTERS)
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + 24 * len(lines)), "white")
    ImageDraw.Draw(image).text((MARGIN, MARGIN), "\n".join(lines), INK, ImageFont.load_default(14), spacing=8)
    return image


def _small() -> Any:
    return ImageFont.load_default(12)


def _headline(report: dict[str, Any]) -> list[str]:
    done, taken = summary(report)
    notes, left_out = report["notes"][:MAX_NOTES], len(report["notes"][MAX_NOTES:])
    return [taken, done, *notes, *([f"{left_out} more notes are in the report."] if left_out else [])]


def _side(step: dict[str, str], report: dict[str, Any]) -> float:
    """The side of the step's latent as a share of the full one."""
    if step["stage"] != "low" or not report["low_size"]:
        return 1.0
    return 1 / size_ratio(report["size"], report["low_size"])


def _columns(index: int, total: int) -> tuple[float, float]:
    width = (WIDTH - 2 * MARGIN) / total
    gap = min(4.0, width / 5)
    return MARGIN + index * width + gap / 2, MARGIN + (index + 1) * width - gap / 2


def _bar(pen: ImageDraw.ImageDraw, step: dict[str, str], left: float, right: float, top: float, share: float) -> None:
    colour = REUSED if step["deep"] == "reuse" else COMPUTED
    pen.rectangle((left, _bar_top(top, share), right, top + BARS), fill=colour)


def _bar_top(top: float, share: float) -> float:
    room_for_the_figure = 16
    return top + room_for_the_figure + (BARS - room_for_the_figure) * (1 - share)


def _lanes(pen: ImageDraw.ImageDraw, step: dict[str, str], left: float, right: float, top: float) -> None:
    cross_attention = {"off": FAINT, "compute": CROSS_ATTENTION, "reuse": CROSS_ATTENTION_REUSED}[step["xattn"]]
    guidance = INK if step["cfg"] == "on" else FAINT
    for number, colour in enumerate((cross_attention, guidance)):
        lane_top = top + number * (LANE + GAP)
        pen.rectangle((left, lane_top, right, lane_top + LANE), fill=colour)


def _legend(pen: ImageDraw.ImageDraw, y: float) -> None:
    x = float(MARGIN)
    for colour, words in LEGEND:
        pen.rectangle((x, y, x + 12, y + 12), fill=colour)
        pen.text((x + 18, y - 1), words, INK, _small())
        x += 18 + pen.textlength(words, _small()) + 18
    pen.text((x, y - 1), "narrow bar: low resolution", INK, _small())
