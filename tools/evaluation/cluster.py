"""Ray: workers on every GPU of one machine or of many, and shards handed to them until all are done."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from evaluation.store import Shard
from evaluation.worker import DeviceLost, Job, Outcome, Worker

ATTEMPTS = 3
OBJECT_STORE_BYTES = 100 * 2**20  # only small records travel through it; it lies in shared memory
REFRESH_SECONDS = 1.0
SHORT = "/tmp" if os.path.isdir("/tmp") else None  # Ray puts sockets there, whose paths may have 103 characters
PASSED_ON = ("COMFYUI_PATH", "HF_HOME", "TORCH_HOME")


class ClusterError(RuntimeError):
    """The cluster cannot give what is asked of it."""


@dataclass(frozen=True)
class Task:
    """A shard, and the worker's method that does it."""

    method: Literal["draw", "see"]
    shard: Shard


@dataclass(frozen=True)
class Resources:
    """What was found: how many workers, on what."""

    workers: int
    device: str


@dataclass(frozen=True)
class Events:
    """What `run` tells the one who waits."""

    done: Callable[[Task, Outcome], None]
    redone: Callable[[Task, str], None]
    given_up: Callable[[Task, str], None]
    waited: Callable[[], None]


@contextlib.contextmanager
def cluster(address: str | None, workers: int | None, device: str | None) -> Iterator[Resources]:
    """Connect to the Ray cluster at `address`, or start one on this machine; it ends with the block, however that ends.

    `device` cpu or cuda, by default cuda where the cluster has a GPU; `workers` by default one for each GPU, or one.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own choice is to yield to everything else on the machine
    with tempfile.TemporaryDirectory(prefix=f"pd-ray-{os.getpid()}-", dir=SHORT, ignore_cleanup_errors=True) as folder:
        where: dict[str, Any] = {"address": address}
        if address is None:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            where = {"num_cpus": workers or 1, "num_gpus": 0 if device == "cpu" else None, "_temp_dir": folder}
            where |= {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        try:
            _start(where | {"runtime_env": {"env_vars": _environment(workers)}})
            yield _resources(workers, device)
        finally:
            ray.shutdown()


def _start(options: dict[str, Any]) -> None:
    """Connect or start. Ray gives its own processes 30 seconds, which a busy machine may exceed: then once more."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise ClusterError(f"Ray did not start: {_in_short(error)}") from error


def run(job: Job, resources: Resources, tasks: Iterable[Task], events: Events) -> None:
    """Do all tasks. A task whose worker dies goes to a new one, up to three times; then it is given up.

    Raises what a worker raises: something that more pictures would not mend, such as a missing file.
    """
    waiting, lost = deque(tasks), Counter[Task]()
    idle = [_worker(job, resources) for _ in range(min(resources.workers, len(waiting)))]
    busy: dict[Any, tuple[Any, Task]] = {}
    while waiting or busy:
        while idle and waiting:
            worker, task = idle.pop(), waiting.popleft()
            busy[getattr(worker, task.method).remote(task.shard)] = (worker, task)
        finished, _ = ray.wait(list(busy), timeout=REFRESH_SECONDS)
        events.waited()
        for reference in finished:
            worker, task = busy.pop(reference)
            try:
                outcome = ray.get(reference)
            except (RayActorError, DeviceLost) as error:
                ray.kill(worker)
                idle.append(_worker(job, resources))
                lost[task] += 1
                if lost[task] < ATTEMPTS:
                    events.redone(task, _in_short(error))
                    waiting.appendleft(task)
                else:
                    events.given_up(task, f"{ATTEMPTS} workers died at it: {_in_short(error)}")
            except RayTaskError as error:
                raise error.cause from None
            else:
                idle.append(worker)
                events.done(task, outcome)


def call(job: Job, resources: Resources, method: str, *arguments: Any) -> Any:
    """One call on one worker."""
    try:
        return ray.get(getattr(_worker(job, resources), method).remote(*arguments))
    except RayTaskError as error:
        raise error.cause from None


def _worker(job: Job, resources: Resources) -> Any:
    needs = {"num_gpus": 1, "num_cpus": 0} if resources.device == "cuda" else {"num_cpus": 1}
    return ray.remote(Worker).options(**needs).remote(job)


def _resources(workers: int | None, device: str | None) -> Resources:
    found = ray.cluster_resources()
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 0))
    chosen = device or ("cuda" if gpus else "cpu")
    wanted, there = workers or (gpus if chosen == "cuda" else 1), gpus if chosen == "cuda" else cpus
    if wanted < 1 or wanted > there:
        raise ClusterError(
            f"{wanted} workers on {chosen} were asked for; the cluster has {gpus} GPUs and {cpus} CPUs for them."
        )
    return Resources(wanted, chosen)


def _environment(workers: int | None) -> dict[str, str]:
    """What a worker needs to find this code, ComfyUI and the weights, also on another machine."""
    threads = max(1, (os.cpu_count() or 1) // (workers or torch.cuda.device_count() or 1))
    found = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = [str(Path(__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **found,
        "PYTHONPATH": os.pathsep.join(path),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }


def _in_short(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
