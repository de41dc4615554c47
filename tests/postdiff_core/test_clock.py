"""The time of each step: the processor's, or that of a device which runs behind it."""

from unittest import mock

import pytest
import torch

from postdiff.postdiff_core import clock
from postdiff.postdiff_core.clock import Clock


class Queue:
    """What torch.cuda.Event and current_stream show of a device: each step takes it as many milliseconds as asked."""

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self.waited = 0

    def event(self, *, enable_timing: bool) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.at: float | None = None

    def record(self, stream: Queue) -> None:
        assert stream is self.queue
        self.at = self.queue.milliseconds

    def synchronize(self) -> None:
        self.queue.waited += 1

    def elapsed_time(self, later: "Event") -> float:
        assert self.at is not None and later.at is not None
        return later.at - self.at


@pytest.fixture
def queue():
    queue = Queue()
    with (
        mock.patch.object(torch.cuda, "Event", queue.event),
        mock.patch.object(torch.cuda, "current_stream", lambda device: queue),
    ):
        yield queue


def test_on_a_cuda_device_steps_take_its_own_time_and_nobody_waits_until_they_are_asked_for(queue):
    clock, device = Clock(), torch.device("cuda:0")
    for step in range(3):
        clock.begin(step, device)
        queue.milliseconds += 100 * (step + 1)
    clock.stop()
    assert queue.waited == 0
    assert clock.seconds(3) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_elsewhere_steps_take_the_processor_s_time(device, monkeypatch):
    times = iter([1.0, 1.5, 3.5])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    timed = Clock()
    timed.begin(0, torch.device(device))
    timed.begin(0, torch.device(device))
    timed.begin(2, torch.device(device))
    timed.stop()
    assert timed.seconds(4) == [0.5, None, 2.0, None]


def test_a_step_that_a_sampler_looks_ahead_to_or_goes_back_to_takes_all_its_time(monkeypatch):
    times = iter([1.0, 1.5, 3.5, 4.5, 8.5])
    monkeypatch.setattr(clock.time, "perf_counter", lambda: next(times))
    timed = Clock()
    for step in (0, 1, 0, 2):
        timed.begin(step, torch.device("cpu"))
    timed.stop()
    assert timed.seconds(3) == [1.5, 2.0, 4.0]


def test_a_run_without_evaluations_took_no_time():
    timed = Clock()
    timed.stop()
    assert timed.seconds(2) == [None, None]
