"""How far a calibration is: the node's progress bar with the last picture, a line of text, and now and then the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import comfy.utils
import numpy
import torch
from PIL import Image

from .calibration import Calibration

log = logging.getLogger("postdiff.calibrate")

LOG_SECONDS = 20.0
SHOW_SECONDS = 1.0
PREVIEW_SIDE = 512
TICKS = 1000  # of the bar


class Progress:
    """Follows a calibration: give it as `on_measured`. `say` gets one line, at most once a second."""

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self._say = say
        self._bar = comfy.utils.ProgressBar(TICKS)
        self._shown = 0.0
        self._logged = time.monotonic()

    def __call__(self, calibration: Calibration) -> None:
        done, planned = calibration.measurements
        calibration.runs.on_step = lambda fraction: self._bar.update_absolute(
            round(TICKS * (done + fraction) / planned)
        )
        now = time.monotonic()
        if now - self._shown >= SHOW_SECONDS or done == planned:
            self._shown = now
            line = summary(calibration)
            self._say(line)
            self._bar.update_absolute(round(TICKS * done / planned), preview=_preview(calibration))
            if now - self._logged >= LOG_SECONDS:
                self._logged = now
                log.info("Calibration: %s", line)

    def finish(self, line: str, picture: Image.Image) -> None:
        """Leave the outcome on the node, where the last picture drawn would stay."""
        self._say(line)
        self._bar.update_absolute(TICKS, preview=("JPEG", picture, max(picture.size)))


def summary(calibration: Calibration) -> str:
    """How many pictures are drawn, how long the rest takes, and the best settings so far."""
    done, planned = calibration.measurements
    parts = [f"{done} of {planned} pictures"]
    if calibration.seconds_left is not None and done < planned:
        parts.append(f"about {format_duration(calibration.seconds_left)} left")
    best = calibration.search.choice()
    if best is not None:
        parts.append(f"best so far: {best} ({1 / calibration.pricing.share(best):.1f}x less work)")
    return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """A duration as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _preview(calibration: Calibration) -> tuple[str, Image.Image, int] | None:
    image = calibration.runs.last_image
    return None if image is None else ("JPEG", as_pil(image), PREVIEW_SIDE)


def as_pil(image: torch.Tensor) -> Image.Image:
    """(height, width, 3) in 0..1 as an RGB picture."""
    return Image.fromarray(numpy.rint(image.clamp(0, 1).numpy() * 255).astype(numpy.uint8))
