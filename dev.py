"""One command for a fresh machine: set up a real ComfyUI outside this repository, then run tools/<command>.py in it.

    python dev.py demo                 pictures with and without PostDiff, side by side
    python dev.py serve [flags]        ComfyUI in the browser with this pack loaded; flags go to ComfyUI
    python dev.py test [arguments]     every test; arguments go to pytest
    python dev.py check                style, types and rules
    python dev.py bench NAME           the benchmark benchmarks/NAME.py
    python dev.py screenshots          pictures of the real canvas, for the README and the help pages
    python dev.py env                  where everything is, as one JSON object

Options, anywhere on the line:
    --comfyui PATH    use this ComfyUI, with the Python that runs dev.py, and set up nothing (also: COMFYUI_PATH)

ComfyUI and its Python environment lie in the user's cache folder (POSTDIFF_CACHE moves it). Standard library only.
"""

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK_FILE = ROOT / "tests" / "host-lock.json"
COMMANDS = ("demo", "serve", "test", "check", "bench", "screenshots", "env")
DEFAULT_HOST = "0.30.0"
OLDEST_PYTHON = (3, 11)
NEEDED_GB = 9  # environment and ComfyUI (6 GB) plus what pip unpacks on the way


class SetupError(Exception):
    """What went wrong, and what the user can do about it."""

    def __init__(self, problem, remedy):
        super().__init__(problem)
        self.remedy = remedy


def say(text):
    print(text, file=sys.stderr, flush=True)


def cache_folder():
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
def exclusive(path):
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


def try_lock(file):
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


def clean_environment():
    """The user's environment without what would lead another Python or pip astray."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONNOUSERSITE": "1", "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def call(command, remedy):
    """Run a command with its output shown on stderr; stdout stays free for results."""
    try:
        line = [str(part) for part in command]
        code = subprocess.run(line, stdout=sys.stderr, env=clean_environment(), close_fds=False).returncode
    except OSError as error:
        raise SetupError(f"`{command[0]}` could not be started: {error}", remedy) from error
    if code != 0:
        raise SetupError(f"`{' '.join(map(str, command))}` ended with exit status {code}.", remedy)


class Host:
    """A ComfyUI tree and the Python environment that runs it, both keyed by what tests/host-lock.json pins."""

    online = "Check the network connection and pip's settings (`pip config list`), then run the same command again."

    def __init__(self, cache, version=DEFAULT_HOST, lock_file=LOCK_FILE):
        lock = json.loads(lock_file.read_text(encoding="utf-8"))
        if version not in lock["hosts"]:
            raise SetupError(
                f"ComfyUI {version} is not in {lock_file.name}.", f"Choose one of: {', '.join(lock['hosts'])}."
            )
        self.version, self.lock, self.source = version, lock, lock["hosts"][version]
        self.cache = cache
        pins = json.dumps([self.source, lock["torch"], lock["tools"], lock["versions"]])
        runtime = f"{sys.version_info[:2]} {sys.platform} {platform.machine()}"
        key = hashlib.sha256((pins + runtime).encode()).hexdigest()[:12]
        self.tree = cache / f"comfyui-{version}-{self.source['sha256'][:12]}"
        self.environment = cache / f"python-{version}-{key}"
        self.python = self.environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def steps(self):
        """(marker that says it is done, what it is, the work), in order."""
        return (
            (self.environment / ".done-python", "a Python environment", self.make_environment),
            (self.tree / ".done", f"ComfyUI {self.version}", self.fetch_tree),
            (self.environment / ".done-torch", "torch (the largest download)", self.install_torch),
            (self.environment / ".done", "ComfyUI's requirements and the developer tools", self.install_requirements),
        )

    def ready(self):
        return self.python.exists() and all(marker.is_file() for marker, _, _ in self.steps())

    def set_up(self):
        """Do the steps that are missing. Safe to interrupt, to repeat and to run twice at once."""
        if self.ready():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with exclusive(self.cache / "set-up.lock"):
            steps = self.steps()
            if not self.python.exists():  # never made, or made by a Python that has since been removed
                shutil.rmtree(self.environment, ignore_errors=True)
            if not self.ready():
                say(f"Setting up ComfyUI {self.version} in {self.cache} (once; a few minutes).")
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

    def check_machine(self):
        if sys.version_info < OLDEST_PYTHON:
            raise SetupError(
                f"Python {platform.python_version()} is too old for the pinned packages.",
                f"Run dev.py with Python {'.'.join(map(str, OLDEST_PYTHON))} or newer, or use --comfyui PATH.",
            )
        free = shutil.disk_usage(self.cache).free / 1e9
        if free < NEEDED_GB and not (self.environment / ".done-torch").is_file():
            raise SetupError(
                f"{self.cache} has {free:.1f} GB free; the set-up needs about {NEEDED_GB} GB.",
                "Free some space, or set POSTDIFF_CACHE to a folder on a larger disk.",
            )

    def make_environment(self):
        shutil.rmtree(self.environment, ignore_errors=True)
        call(
            [sys.executable, "-m", "venv", self.environment],
            "This Python cannot create environments. On Debian and Ubuntu: apt install python3-venv.",
        )

    def pip(self, *arguments):
        return [self.python, "-m", "pip", *arguments]

    def fetch_tree(self):
        """Unpack vendor/ComfyUI from the pinned source distribution; the folder appears only when it is complete."""
        partial = self.cache / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(self.tree, ignore_errors=True)
        partial.mkdir()
        name = self.source["package"].partition("==")[0]
        only_source = ("--no-deps", "--no-binary", name, "--ignore-requires-python")
        call(self.pip("download", *only_source, "--dest", partial, self.source["package"]), self.online)
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

    def install(self, *what):
        # An interrupted pip leaves packages without a RECORD; pip itself would take them for installed.
        for metadata in self.environment.glob("[Ll]ib*/**/site-packages/*.dist-info"):
            if not (metadata / "RECORD").is_file():
                shutil.rmtree(metadata)
        constraints = self.environment / "constraints.txt"
        constraints.write_text("\n".join(self.lock["versions"]) + "\n", encoding="utf-8")
        call(self.pip("install", "--constraint", constraints, *what), self.online)

    def install_torch(self):
        self.install(*self.lock["torch"])

    def install_requirements(self):
        self.install(*self.lock["torch"], *self.lock["tools"], "--requirement", self.tree / "requirements.txt")


def choose_host(comfyui):
    """(python, comfyui): the user's own ComfyUI with this Python, or the one in the cache, set up if need be."""
    given = comfyui or os.environ.get("COMFYUI_PATH")
    if not given:
        host = Host(cache_folder())
        host.set_up()
        return host.python, host.tree
    path = Path(given).expanduser().resolve()
    if not (path / "comfyui_version.py").is_file():
        raise SetupError(f"{path} is not a ComfyUI folder.", "Name the folder that holds ComfyUI's main.py.")
    return Path(sys.executable), path


def run(python, comfyui, command, arguments):
    """Run tools/<command>.py in the host's Python, in place of this process where the system can do that."""
    line = [str(python), str(ROOT / "tools" / f"{command}.py"), *arguments]
    inherited = os.environ if str(python) == sys.executable else clean_environment()
    environment = {**inherited, "COMFYUI_PATH": str(comfyui), "POSTDIFF_CACHE": str(cache_folder())}
    if os.name != "nt":
        sys.stdout.flush()
        os.execve(line[0], line, environment)
    with subprocess.Popen(line, env=environment) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                pass  # the child got it too and decides


def main(arguments):
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=__doc__)
    parser.add_argument("--comfyui")
    parser.add_argument("command", nargs="?")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    options, rest = parser.parse_known_args(arguments)
    if options.command not in COMMANDS:
        say(f"Unknown command {options.command!r}. Choose one of: {', '.join(COMMANDS)} (see `python dev.py --help`).")
        return 2
    try:
        python, comfyui = choose_host(options.comfyui)
        return run(python, comfyui, options.command, rest)
    except SetupError as error:
        say(f"{error}\nRemedy: {error.remedy}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. Run the same command again to go on from the last finished step.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
