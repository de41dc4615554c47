"""How long each step took, also on a device that works through a queue while the processor goes on."""

from __future__ import annotations

import time
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
    """When each step of a run began, and when the last one ended."""

    def __init__(self) -> None:
        self._began: dict[int, Moment] = {}
        self._ended: Moment | None = None
        self._device: torch.device | None = None

    def begin(self, step: int, device: torch.device) -> None:
        """A step is evaluated; only its first evaluation counts."""
        self._device = device
        if step not in self._began:
            self._began[step] = _moment(device)

    def stop(self) -> None:
        """The last step is done."""
        if self._device is not None:
            self._ended = _moment(self._device)

    def seconds(self, total: int) -> list[float | None]:
        """Seconds per step: from its first evaluation to the next step's; None for a step that was never evaluated.

        Waits for the device.
        """
        if self._ended is None:
            return [None] * total
        steps = sorted(self._began)
        moments = [*(self._began[step] for step in steps), self._ended]
        spent = {
            step: later.seconds_since(sooner) for step, (sooner, later) in zip(steps, pairwise(moments), strict=True)
        }
        return [spent.get(step) for step in range(total)]


def _moment(device: torch.device) -> Moment:
    return MOMENTS.get(device.type, ProcessorMoment)(device)
