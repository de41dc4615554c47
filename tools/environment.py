"""ComfyUI and the Python environments it runs in, made in the user's cache folder.

Standard library only: dev.py uses it before anything is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

LOCK_FILE = Path(__file__).resolve().parent.parent / "tests" / "host-lock.json"
OLDEST_PYTHON = (3, 11)
NEEDED_GB = 9  # environment and ComfyUI (7 GB) plus what pip unpacks on the way
ONLINE = "Check the network connection and pip's settings (`pip config list`), then run the same command again."

Step = tuple[Path, str, Callable[[], None]]


class SetupError(Exception):
    """What went wrong, and what the user can do about it."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem)
        self.remedy = remedy


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cache_folder() -> Path:
    if os.environ.get("POSTDIFF_CACHE"):
        return Path(os.environ["POSTDIFF_CACHE"]).expanduser().resolve()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "postdiff"


@contextlib.contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Hold a lock on `path`. The operating system frees it when this process and what it runs have ended, however."""
    with open(path, "a+b") as file:
        os.set_inheritable(file.fileno(), True)  # a pip that outlives a killed dev.py still holds the lock
        waiting = False
        while not try_lock(file):
            if not waiting:
                say("Another set-up is running; waiting for it to finish ...")
                waiting = True
            time.sleep(0.5)
        yield


def try_lock(file: BinaryIO) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def clean_environment() -> dict[str, str]:
    """The user's environment without what would lead another Python or pip astray."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONNOUSERSITE": "1", "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def developer_tools() -> list[str]:
    """The packages that this repository's commands use beside ComfyUI's own."""
    return json.loads(LOCK_FILE.read_text(encoding="utf-8"))["tools"]


def missing_packages(names: Iterable[str]) -> list[str]:
    """Which of the named packages are not installed for this Python."""
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def call(command: list[Any], remedy: str) -> None:
    """Run a command with its output shown on stderr; stdout stays free for results."""
    try:
        line = [str(part) for part in command]
        code = subprocess.run(line, stdout=sys.stderr, env=clean_environment(), close_fds=False).returncode
    except OSError as error:
        raise SetupError(f"`{command[0]}` could not be started: {error}", remedy) from error
    if code != 0:
        raise SetupError(f"`{' '.join(map(str, command))}` ended with exit status {code}.", remedy)


def key(pins: list[Any]) -> str:
    """A short name for what is pinned, on this kind of Python and machine."""
    runtime = f"{sys.version_info[:2]} {sys.platform} {platform.machine()}"
    return hashlib.sha256((json.dumps(pins) + runtime).encode()).hexdigest()[:12]


class Environment:
    """A Python environment in the cache, made step by step.

    Over a `base`, another environment's Python, it is small: what the base has counts as installed, and only what is
    missing or pinned to another version is installed here.
    """

    name = ""  # what is set up, for the user

    def __init__(self, cache: Path, folder: str, constraints: list[str], base: Path | None = None):
        self.cache, self.constraints, self.base = cache, constraints, base
        self.folder = cache / folder
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def steps(self) -> tuple[Step, ...]:
        """(marker that says it is done, what it is, the work), in order."""
        return ((self.folder / ".done-python", "a Python environment", self.make),)

    def ready(self) -> bool:
        return self.python.exists() and all(marker.is_file() for marker, _, _ in self.steps())

    def set_up(self) -> None:
        """Do the steps that are missing. Safe to interrupt, to repeat and to run twice at once."""
        if self.ready():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with exclusive(self.cache / "set-up.lock"):
            steps = self.steps()
            if not self.python.exists():  # never made, or made by a Python that has since been removed
                shutil.rmtree(self.folder, ignore_errors=True)
            if not self.ready():
                say(f"Setting up {self.name} in {self.cache} (once).")
                self.check_machine()
            for number, (marker, name, work) in enumerate(steps, start=1):
                if marker.is_file():
                    continue
                say(f"[{number}/{len(steps)}] {name}")
                started = time.monotonic()
                try:
                    work()
                except (SetupError, OSError, tarfile.TarError) as error:
                    remedy = getattr(error, "remedy", "Check the free space and the rights of the cache folder.")
                    raise SetupError(
                        f"Set-up failed at step {number} of {len(steps)}, {name}:\n  {error}",
                        f"{remedy}\nFinished steps are kept. Cache folder: {self.cache}",
                    ) from error
                marker.write_text("done\n", encoding="utf-8")
                say(f"      done in {time.monotonic() - started:.0f} s")

    def check_machine(self) -> None:
        """Raise SetupError, before anything is installed, where it could not work."""

    def make(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        line = [self.base, "-m", "venv", "--without-pip"] if self.base else [sys.executable, "-m", "venv"]
        remedy = "This Python cannot create environments. On Debian and Ubuntu: apt install python3-venv."
        call([*line, self.folder], remedy)
        if self.base:
            (own, *_), packages = site_packages(self.python), site_packages(self.base)
            Path(own, "base.pth").write_text("\n".join(packages) + "\n", encoding="utf-8")

    def pip(self, *arguments: Any) -> list[Any]:
        return [self.python, "-m", "pip", *arguments]

    def install(self, *what: Any) -> None:
        # An interrupted pip leaves packages without a RECORD; pip itself would take them for installed.
        for metadata in self.folder.glob("[Ll]ib*/**/site-packages/*.dist-info"):
            if not (metadata / "RECORD").is_file():
                shutil.rmtree(metadata)
        constraints = self.folder / "constraints.txt"
        constraints.write_text("\n".join(self.constraints) + "\n", encoding="utf-8")
        call(self.pip("install", "--constraint", constraints, *what), ONLINE)


def site_packages(python: Path) -> list[str]:
    """Where a Python keeps its packages."""
    line = [str(python), "-c", "import json, site; print(json.dumps(site.getsitepackages()))"]
    return json.loads(subprocess.run(line, capture_output=True, env=clean_environment(), check=True).stdout)


class Host(Environment):
    """A ComfyUI tree and the Python environment that runs it, both keyed by what tests/host-lock.json pins.

    The newest release has a whole environment, the older ones share what they do not pin otherwise.
    """

    def __init__(self, cache: Path, version: str | None = None, lock_file: Path = LOCK_FILE):
        lock = json.loads(lock_file.read_text(encoding="utf-8"))
        newest = list(lock["hosts"])[-1]
        self.version = version or newest
        if self.version not in lock["hosts"]:
            known = ", ".join(lock["hosts"])
            raise SetupError(f"ComfyUI {version} is not in {lock_file.name}.", f"Choose one of: {known}.")
        self.lock, self.source = lock, lock["hosts"][self.version]
        self.newest = None if self.version == newest else Host(cache, newest, lock_file)
        pins = [self.source, lock["torch"], lock["tools"], lock["versions"]]
        if self.newest:
            pins.append(self.newest.source)
        constraints = [*lock["versions"], *self.source.get("versions", ())]
        super().__init__(
            cache, f"python-{self.version}-{key(pins)}", constraints, self.newest.python if self.newest else None
        )
        self.name = f"ComfyUI {self.version}"
        self.tree = cache / f"comfyui-{self.version}-{self.source['sha256'][:12]}"

    def steps(self) -> tuple[Step, ...]:
        torch = (self.folder / ".done-torch", "torch (the largest download)", self.install_torch)
        return (
            *super().steps(),
            (self.tree / ".done", self.name, self.fetch_tree),
            *(() if self.newest else (torch,)),
            (self.folder / ".done", "ComfyUI's requirements and the developer tools", self.install_requirements),
        )

    def set_up(self) -> None:
        if self.newest:
            self.newest.set_up()
        super().set_up()

    def check_machine(self) -> None:
        if sys.version_info < OLDEST_PYTHON:
            raise SetupError(
                f"Python {platform.python_version()} is too old for the pinned packages.",
                f"Run dev.py with Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, or use --comfyui PATH.",
            )
        free = shutil.disk_usage(self.cache).free / 1e9
        if not self.newest and free < NEEDED_GB and not (self.folder / ".done-torch").is_file():
            raise SetupError(
                f"{self.cache} has {free:.1f} GB free; the set-up needs about {NEEDED_GB} GB.",
                "Free some space, or set POSTDIFF_CACHE to a folder on a larger disk.",
            )

    def fetch_tree(self) -> None:
        """Unpack vendor/ComfyUI from the pinned source distribution; the folder appears only when it is complete."""
        partial = self.cache / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.tree, ignore_errors=True)
        partial.mkdir()
        name = self.source["package"].partition("==")[0]
        only_source = ("--no-deps", "--no-binary", name, "--ignore-requires-python")
        call(self.pip("download", *only_source, "--dest", partial, self.source["package"]), ONLINE)
        archive = next(partial.glob("*.tar.gz"))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != self.source["sha256"]:
            raise SetupError(
                f"{archive.name} has sha256 {found}, but {self.source['sha256']} is pinned.",
                "The download is damaged or not the pinned file; it was not used. Check where pip downloads from.",
            )
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(partial, [member for member in tar if "/vendor/ComfyUI/" in member.name])
        next(partial.glob("*/vendor/ComfyUI")).rename(self.tree)
        shutil.rmtree(partial)

    def install_torch(self) -> None:
        self.install(*self.lock["torch"])

    def install_requirements(self) -> None:
        self.install(*self.lock["torch"], *self.lock["tools"], "--requirement", self.tree / "requirements.txt")


class ReleaseTools(Environment):
    """comfy-cli, ComfyUI-Manager and comfy-test, over the environment of a ComfyUI and apart from it."""

    name = "the release tools"

    def __init__(self, cache: Path, python: Path, lock_file: Path = LOCK_FILE):
        pins = json.loads(lock_file.read_text(encoding="utf-8"))["release"]
        super().__init__(cache, f"release-{key([pins, str(python)])}", pins, python)

    def steps(self) -> tuple[Step, ...]:
        packages = (self.folder / ".done", "comfy-cli, ComfyUI-Manager and comfy-test", self.install_packages)
        return (*super().steps(), packages)

    def install_packages(self) -> None:
        self.install(*self.constraints)
