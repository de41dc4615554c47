"""How long each step took, also on a device that works through a queue while the processor goes on."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import torch


class Moment(Protocol):
    """A moment of a run, as the device that it runs on comes to it."""

    def seconds_since(self, earlier: Any) -> float: ...


class ProcessorMoment:
    """Now: what has been asked for is done."""

    def __init__(self, device: torch.device) -> None:
        self._time = time.perf_counter()

    def seconds_since(self, earlier: ProcessorMoment) -> float:
        return self._time - earlier._time


class CudaMoment:
    """The moment the device is done with what was asked of it so far."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record(torch.cuda.current_stream(device))

    def seconds_since(self, earlier: CudaMoment) -> float:
        """Waits for the device to come to this moment."""
        self._event.synchronize()
        return earlier._event.elapsed_time(self._event) / 1000


MOMENTS: dict[str, Callable[[torch.device], Moment]] = {"cpu": ProcessorMoment, "cuda": CudaMoment}
"""By type of device. On others a moment is the processor's, and right only after the processor has waited for them."""


class Clock:
    """Records when each step began, and when the last one ended."""

    def __init__(self) -> None:
        self._beginnings: list[tuple[int, Moment]] = []
        self._ended: Moment | None = None
        self._device: torch.device | None = None

    def begin(self, step: int, device: torch.device) -> None:
        """A step is evaluated. Some samplers look ahead, or go back."""
        self._device = device
        if not self._beginnings or self._beginnings[-1][0] != step:
            self._beginnings.append((step, _moment(device)))

    def stop(self) -> None:
        """The last step is done."""
        if self._device is not None:
            self._ended = _moment(self._device)

    def seconds(self, total: int) -> list[float | None]:
        """Seconds per step: from each of its evaluations to the next other step's; None for one never evaluated.

        Waits for the device.
        """
        if self._ended is None:
            return [None] * total
        moments = [*(moment for _, moment in self._beginnings), self._ended]
        spent: dict[int, float] = defaultdict(float)
        for (step, _), (sooner, later) in zip(self._beginnings, pairwise(moments), strict=True):
            spent[step] += later.seconds_since(sooner)
        return [spent.get(step) for step in range(total)]


def _moment(device: torch.device) -> Moment:
    return MOMENTS.get(device.type, ProcessorMoment)(device)
