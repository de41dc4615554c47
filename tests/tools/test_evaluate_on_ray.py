"""Real Ray on this machine: workers that die, a command that is killed, and nothing left behind."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray

import pack
from evaluation import cluster
from evaluation.store import Shard
from evaluation.worker import DeviceLost, Outcome

WAIT_SECONDS = 600  # a machine that others use too may take minutes to start a worker
POLL_SECONDS = 0.5  # looking at all processes costs them time
SETTINGS = """
[models.embedded]
title = "Embedded model"
width = 64
height = 64
cfg = 3.0
sampler_name = "euler"
scheduler = "normal"
reference = "stock"

[models.embedded.settings.stock]
steps = 3

[models.embedded.settings.mix]
steps = 3
mixed_resolution = { low_res_scale = 0.5, low_res_until = 0.5 }
"""
PROMPTS, SHARD = 40, 4


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(POLL_SECONDS)


def descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def drawing(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run a worker of the evaluation; Ray titles its processes so."""
    found = []
    for process in processes:
        try:
            if process.cmdline()[:1] == ["ray::Worker.draw"]:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            pass
    return found


def command(folder: Path, *arguments: str) -> list[str]:
    line = [sys.executable, str(pack.ROOT / "dev.py"), "--comfyui", str(pack.comfyui_path()), "evaluate"]
    line += ["--settings", str(folder / "settings.toml"), "--prompts", str(folder / "prompts.txt")]
    line += ["--out", str(folder / "out"), "--clip", "none", "--lpips", "none"]
    line += ["--device", "cpu", "--keep", "0", "--shard", str(SHARD)]
    return [*line, *arguments]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "settings.toml").write_text(SETTINGS)
    (tmp_path / "prompts.txt").write_text("".join(f"noto red apple {number}\n" for number in range(PROMPTS)))
    return tmp_path


def finished(folder: Path) -> dict[Path, int]:
    """The finished units of work and when each was written."""
    return {file: file.stat().st_mtime_ns for file in (folder / "out" / "shards").rglob("*.parquet")}


@pytest.mark.timeout(4 * WAIT_SECONDS)
def test_a_killed_command_and_a_killed_worker_lose_nothing_do_nothing_twice_and_leave_nothing_behind(folder):
    with subprocess.Popen(command(folder), stderr=subprocess.DEVNULL) as first:
        process = psutil.Process(first.pid)
        wait_until(lambda: len(finished(folder)) >= 2 and drawing(descendants(process)), "the first units of work")
        children = descendants(process)
        first.kill()
    _, alive = psutil.wait_procs(children, timeout=WAIT_SECONDS)
    assert not alive
    for left in Path(cluster.SHORT or tempfile.gettempdir()).glob(f"pd-ray-{first.pid}-*"):  # nobody could remove it
        shutil.rmtree(left)
    before = finished(folder)
    assert 2 <= len(before) < PROMPTS / SHARD, "the command was not killed in the middle"

    log = folder / "log"
    with open(log, "wb") as file, subprocess.Popen(command(folder, "--workers", "2"), stderr=file) as second:
        process = psutil.Process(second.pid)
        wait_until(lambda: second.poll() is not None or drawing(descendants(process)), "drawing")
        children = descendants(process)
        busy = drawing(children)
        assert busy, f"the command ended before a worker could be killed: {log.read_text()}"
        busy[0].kill()
        wait_until(lambda: second.poll() is not None, "the end")
    assert second.returncode == 0, log.read_text()
    _, alive = psutil.wait_procs(children, timeout=WAIT_SECONDS)
    assert not alive
    assert "A worker died and its work is done again" in log.read_text()
    after = finished(folder)
    assert before.items() <= after.items(), "finished work was done again"
    records = pq.read_table(folder / "out" / "records.parquet")
    done = Counter(zip(records["setting"].to_pylist(), records["prompt_index"].to_pylist(), strict=True))
    assert done == Counter((setting, index) for setting in ("stock", "mix") for index in range(PROMPTS))
    assert records["error"].null_count == records.num_rows
    assert (folder / "out" / "table.md").read_text().count("| Embedded model |") == 2


def stand_in():
    """An actor that does nothing, or what a shard's number says; it knows nothing of ComfyUI, so it starts fast."""

    class Worker:
        def draw(self, shard: Shard) -> Outcome:
            attempts = Path(shard.files[0]) / f"{shard.number}"
            attempts.touch()
            with open(attempts, "a") as file:
                file.write("x")
            first = attempts.stat().st_size == 1
            if shard.number == 1 and first:
                os._exit(1)
            if shard.number == 2 and first:
                raise DeviceLost("the device is gone")
            if shard.number == 3:
                os._exit(1)
            if shard.number == 4:
                raise FileNotFoundError("a model file is gone")
            return Outcome(1)

    return ray.remote(Worker).options(num_cpus=1).remote()


class Witness:
    def __init__(self):
        self.done, self.redone, self.given_up = [], [], []
        self.events = cluster.Events(
            lambda task, outcome: self.done.append(task.shard.number),
            lambda task, reason: self.redone.append(task.shard.number),
            lambda task, reason: self.given_up.append((task.shard.number, reason)),
            lambda: None,
        )


def run(monkeypatch, resources, folder: Path, numbers: list[int]) -> Witness:
    monkeypatch.setattr(cluster, "_worker", lambda job, resources: stand_in())
    witness = Witness()
    tasks = [cluster.Task("draw", Shard(number, files=(str(folder),))) for number in numbers]
    cluster.run(None, resources, tasks, witness.events)
    return witness


def attempts(folder: Path, number: int) -> int:
    return (folder / str(number)).stat().st_size


@pytest.mark.timeout(4 * WAIT_SECONDS)
def test_work_is_done_again_given_up_at_the_third_death_or_ended_by_an_error_and_leaves_nothing_behind(
    monkeypatch, tmp_path
):
    before = set(descendants(psutil.Process()))
    with pytest.raises(FileNotFoundError, match="a model file is gone"), cluster.cluster(None, 2, "cpu") as resources:
        started = set(descendants(psutil.Process())) - before
        witness = run(monkeypatch, resources, tmp_path, [0, 1, 2, 3, 5, 6])
        assert sorted(witness.done) == [0, 1, 2, 5, 6]
        assert sorted(witness.redone) == [1, 2, 3, 3]
        ((number, reason),) = witness.given_up
        assert number == 3
        assert reason.startswith("3 workers died at it: ")
        assert {n: attempts(tmp_path, n) for n in (0, 1, 2, 3, 5, 6)} == {0: 1, 1: 2, 2: 2, 3: 3, 5: 1, 6: 1}
        with pytest.raises(cluster.ClusterError, match=r"3 workers on cpu .* 2 CPUs"):
            cluster._resources(3, "cpu")
        with pytest.raises(cluster.ClusterError, match="0 GPUs"):
            cluster._resources(1, "cuda")
        started |= set(descendants(psutil.Process())) - before
        run(monkeypatch, resources, tmp_path, [4])
    assert started
    _, alive = psutil.wait_procs(started, timeout=WAIT_SECONDS)
    assert not alive
    assert not ray.is_initialized()
