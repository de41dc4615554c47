"""Clocks, memory, counted work, and the machine they were read on."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count
from tqdm import tqdm

Name = TypeVar("Name", bound=Hashable)

MB = 10**6
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Clock:
    """Seconds on this device.

    `wall` is what a user waits. `cpu` is processor time divided by the threads, for a CPU that other programs use too:
    nearer than the wall clock to what an idle one would take, though shared caches and memory slow it down as well.
    """

    def __init__(self, kind: str, device: str) -> None:
        if kind == "cpu" and device != "cpu":
            raise ValueError("--clock cpu measures work on the CPU only; use --clock wall on other devices.")
        self.kind, self.device = kind, device

    def __call__(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        if self.kind == "cpu":
            return time.process_time() / torch.get_num_threads()
        return time.perf_counter()

    def seconds(self, action: Callable[[], Any]) -> float:
        gc.collect()  # what came before
        start = self()
        action()
        return self() - start


class PeakMemory:
    """The most memory in use since `reset`, in bytes: allocated on CUDA, resident on Linux, else None."""

    def __init__(self, device: str) -> None:
        self._device = device

    def reset(self) -> None:
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")  # sets VmHWM to what is resident now (man 5 proc)

    def read(self) -> int | None:
        if self._device == "cuda":
            return torch.cuda.max_memory_allocated()
        if not _CLEAR_REFS.exists():
            return None
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024


class Turn(NamedTuple):
    """What one run took."""

    seconds: float
    peak: int | None  # bytes


def take_turns(actions: Mapping[Name, Callable[[], Any]], rounds: int, clock: Clock) -> Iterator[dict[Name, Turn]]:
    """Round by round what each action took, the actions in turn and every second round backwards: drift cancels.

    An action that raises ends it; the rounds before are complete.
    """
    memory = PeakMemory(clock.device)
    with tqdm(total=rounds * len(actions), leave=False, disable=None) as progress:
        for number in range(rounds):
            turns: dict[Name, Turn] = {}
            for name in actions if number % 2 == 0 else reversed(tuple(actions)):
                progress.set_description(str(name))
                memory.reset()
                turns[name] = Turn(clock.seconds(actions[name]), memory.read())
                progress.update()
            yield turns


def spread(values: Sequence[float]) -> float:
    """Half the distance from the smallest to the largest value, as a share of the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def mean_and_its_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, 0 for a single value."""
    return statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def sample(inputs: dict[str, Any]) -> Any:
    """The latent of the stock KSampler."""
    import nodes

    return nodes.KSampler().sample(**inputs)[0]["samples"]


def count(action: Callable[[], Any]) -> tuple[Any, int]:
    """What `action` returns, and the multiply-accumulates it executed (convolutions, matrix products, attention).

    What runs on the meta device only prices a plan: nothing is executed there.
    """

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query.shape, key.shape, value.shape)

    def executed(formula: Callable[..., int]) -> Callable[..., int]:
        def counted(first: Any, *others: Any, **options: Any) -> int:
            return 0 if isinstance(first, torch.Tensor) and first.is_meta else formula(first, *others, **options)

        vars(counted)["_get_raw"] = True  # the counter then gives it tensors, not their shapes
        return counted

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {**flop_registry, on_cpu: attention}
    mapping = {operation: executed(formula) for operation, formula in formulas.items()}
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter:
        value = action()
    return value, counter.get_total_flops() // 2


def attempt(action: Callable[[], Any]) -> str | None:
    """What went wrong, in one line; None if nothing did."""
    try:
        action()
    except Exception as error:  # whatever another pack raises is a result
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def machine(device: str) -> dict[str, Any]:
    """What a figure depends on: processor, cores, threads, versions and date."""
    import comfyui_version

    on_cuda = {"memory": "without dynamic VRAM, torch's own allocator"}  # the host turns those on in its main.py
    return {
        **(on_cuda if device == "cuda" else {}),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "comfyui": comfyui_version.__version__,
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
