"""A real ComfyUI server with this pack in it: start, queue a prompt, follow it, fetch its pictures, stop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from PIL import Image
from tqdm import tqdm

from pack import ROOT, comfyui_path

PACK_FOLDER = "postdiff"
START_SECONDS = 180
ON_WINDOWS = os.name == "nt"

Event = dict[str, Any]
Result = TypeVar("Result")


class PromptError(RuntimeError):
    """A prompt that the server refused or that failed while running; `details` is what the server said."""

    def __init__(self, message: str, details: dict[str, Any]):
        super().__init__(message)
        self.details = details


def place_pack(base: Path, source: Path = ROOT) -> Path:
    """Make `base` a folder for ComfyUI's --base-directory with a pack in its custom_nodes; return the pack there.

    The pack is linked, so that edits count after a restart; on Windows, where links need special rights, it is copied.
    """
    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    placed = base / "custom_nodes" / PACK_FOLDER
    if placed.is_symlink():
        placed.unlink()
    elif placed.is_dir():
        shutil.rmtree(placed)
    if ON_WINDOWS:
        shutil.copytree(source, placed, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    else:
        placed.symlink_to(source, target_is_directory=True)
    return placed


def device_flags(flags: list[str]) -> list[str]:
    """["--cpu"] where torch finds nothing faster and `flags` do not say; asked in another process, since ComfyUI
    wants to set up torch before it is imported."""
    if "--cpu" in flags or "--directml" in flags:
        return []
    question = (
        "import sys, torch;"
        "sys.exit(not (torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available()))"
    )
    return ["--cpu"] if subprocess.run([sys.executable, "-c", question]).returncode else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Run:
    """What the server said about one finished prompt."""

    prompt_id: str
    events: list[tuple[float, str, Event]] = field(default_factory=list)  # (seconds on a monotonic clock, type, data)

    def node_seconds(self) -> dict[str, float]:
        """Seconds from each node's start to the next one's, or to the end; by node id. Cached nodes are absent."""
        marks = [(at, data.get("node")) for at, kind, data in self.events if kind in ("executing", "execution_success")]
        return {node: end - start for (start, node), (end, _) in itertools.pairwise(marks) if node is not None}

    def reports(self, kind: str) -> list[Event]:
        return [data for _, found, data in self.events if found == kind]

    def images(self) -> dict[str, list[Event]]:
        """The pictures each node saved, as the server names them."""
        saved = ((data["node"], (data["output"] or {}).get("images")) for data in self.reports("executed"))
        return {node: images for node, images in saved if images}


def wait_for(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The coroutine's result; in a thread of its own where this one already runs an event loop (Playwright's does)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


class Server:
    """A running ComfyUI at `url`. Methods raise PromptError with the server's own words."""

    def __init__(self, url: str, log: Path):
        self.url, self.log = url, log

    def get(self, path: str) -> Any:
        """GET a JSON document."""
        return wait_for(self._get(path))

    async def _get(self, path: str) -> Any:
        async with aiohttp.ClientSession(self.url) as session, session.get(path) as answer:
            answer.raise_for_status()
            return await answer.json()

    def run(self, prompt: dict[str, Any], on_event: Callable[[str, Event], None] | None = None) -> Run:
        """Queue a prompt in API form and follow it to its end; `on_event(type, data)` sees every JSON message."""
        return wait_for(self._run(prompt, on_event or (lambda kind, data: None)))

    async def _run(self, prompt: dict[str, Any], on_event: Callable[[str, Event], None]) -> Run:
        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.ws_connect(f"/ws?clientId={client}", max_msg_size=0) as socket,
        ):
            async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as answer:
                reply = await answer.json()
            if answer.status != 200:
                raise PromptError(_refusal(reply), reply)
            run = Run(reply["prompt_id"])
            async for message in socket:
                if message.type != aiohttp.WSMsgType.TEXT:
                    continue
                content = message.json()
                kind, data = content["type"], content.get("data") or {}
                if data.get("prompt_id", run.prompt_id) != run.prompt_id:
                    continue
                run.events.append((time.perf_counter(), kind, data))
                on_event(kind, data)
                if kind == "execution_success":
                    return run
                if kind in ("execution_error", "execution_interrupted"):
                    raise PromptError(_failure(kind, data), data)
        raise PromptError("The server closed the connection before the prompt was done.", {"log": self.last_words()})

    def fetch(self, image: Event) -> Image.Image:
        """Download a picture named by `Run.images`."""
        return wait_for(self._fetch(image))

    async def _fetch(self, image: Event) -> Image.Image:
        query = {key: image[key] for key in ("filename", "subfolder", "type")}
        async with aiohttp.ClientSession(self.url) as session, session.get("/view", params=query) as answer:
            answer.raise_for_status()
            return Image.open(BytesIO(await answer.read())).convert("RGB")

    def last_words(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _refusal(reply: dict[str, Any]) -> str:
    parts = [reply.get("error", {}).get("message", "The server refused the prompt.")]
    for node, found in reply.get("node_errors", {}).items():
        parts += [f"{found['class_type']} ({node}): {each['message']}: {each['details']}" for each in found["errors"]]
    return "\n".join(parts)


def _failure(kind: str, data: Event) -> str:
    where = f"{data.get('node_type')} ({data.get('node_id')})"
    if kind == "execution_interrupted":
        return f"Interrupted in {where}."
    return f"{where}: {data.get('exception_message', '').strip()}"


@contextlib.contextmanager
def serving(*flags: str, source: Path = ROOT) -> Iterator[Server]:
    """A headless server with this pack, or the one in `source`; it works in a folder of its own that is deleted
    afterwards, and nothing is written into the ComfyUI tree."""
    with tempfile.TemporaryDirectory(prefix="postdiff-server-", ignore_cleanup_errors=True) as folder:
        place_pack(Path(folder), source)
        with served(comfyui_path(), Path(folder), *flags) as server:
            yield server


@contextlib.contextmanager
def served(comfyui: Path, base: Path, *flags: str) -> Iterator[Server]:
    """A headless server of a ComfyUI that works in `base`, on a free port, stopped when the block ends, however it
    ends."""
    port, log = free_port(), base / "comfyui.log"
    line = [sys.executable, str(comfyui / "main.py"), "--base-directory", str(base), "--port", str(port)]
    line += ["--listen", "127.0.0.1", "--disable-auto-launch", "--disable-api-nodes"]
    line += ["--database-url", "sqlite:///:memory:", *device_flags(list(flags)), *flags]
    with open(log, "wb") as output:
        process = subprocess.Popen(line, cwd=base, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    server = Server(f"http://127.0.0.1:{port}", log)
    try:
        wait_until_ready(process, server)
        yield server
    finally:
        stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], server: Server) -> None:
    """Return when the server answers; raise RuntimeError with its last words if it ends or stays silent."""
    deadline = time.monotonic() + START_SECONDS
    with tqdm(desc="Starting ComfyUI", bar_format="{desc} ... {elapsed}", disable=None) as clock:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with exit status {process.returncode}:\n{server.last_words()}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{server.url}/system_stats", timeout=5).close()
                return
            clock.update()
            time.sleep(0.2)
    raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS} s:\n{server.last_words()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server politely, then firmly."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
