"""The pack as the Comfy Registry and ComfyUI-Manager hand it out: packed, checked, installed and started.

Works on a clone of the last commit in a temporary folder. dev.py names the Python that has the registry's tools.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import api_form
from host import Server, served, serving
from pack import ROOT, comfyui_path

SHIPPED = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "README.md",
    "__init__.py",
    "embedded_model",
    "locales",
    "nodes",
    "postdiff_core",
    "pyproject.toml",
    "requirements.txt",
    "web",
    "workflows",
}
KEPT_BACK = ("embedded_model/training", "embedded_model/training_pictures.webp")
REGISTRY_RULES = "S102,S307,E702"  # no exec, no eval, one statement a line
WORKFLOW = "embedded_model_side_by_side.json"


class Failed(Exception):
    """A check that the pack does not pass; says why."""


class Release:
    """A clone of the last commit, and the checks on it, in order."""

    def __init__(self, folder: Path, tools: Path):
        self.folder, self.tools = folder, tools
        self.clone, self.unpacked = folder / "postdiff", folder / "unpacked" / "postdiff"
        # Tracking is off, and what the tools remember stays in the temporary folder.
        own = {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self.environment = {**os.environ, **own, "PYTHONIOENCODING": "utf-8"}

    def checks(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("the last commit, cloned", self.clone_commit),
            (f"ruff --select {REGISTRY_RULES}", self.check_rules),
            ("comfy node validate", self.validate),
            ("comfy-test lint --strict", self.lint),
            ("comfy node pack: all of the pack and nothing else", self.pack),
            ("the unpacked zip in ComfyUI: every node, a picture", self.serve_unpacked),
            ("cm-cli install into a throw-away ComfyUI: every node", self.install_with_manager),
        ]

    def clone_commit(self) -> None:
        self.call(["git", "clone", "--quiet", ROOT, self.clone], ROOT)

    def check_rules(self) -> None:
        self.call([sys.executable, "-m", "ruff", "check", "--no-cache", "--select", REGISTRY_RULES, "."], self.clone)

    def validate(self) -> None:
        said = self.call([self.script("comfy"), "--skip-prompt", "node", "validate"], self.clone)
        if "warning" in said.lower() or "error" in said.lower():
            raise Failed(said)

    def lint(self) -> None:
        self.call([self.script("comfy-test"), "lint", "--strict"], self.clone)

    def pack(self) -> None:
        self.call([self.script("comfy"), "--skip-prompt", "node", "pack"], self.clone)
        with zipfile.ZipFile(self.clone / "node.zip") as archive:
            difference = sorted(set(archive.namelist()) ^ shipped_files(self.clone))
            if difference:
                raise Failed(f"in the zip or in the pack, but not in both: {', '.join(difference)}")
            archive.extractall(self.unpacked)

    def serve_unpacked(self) -> None:
        with serving("--cpu", source=self.unpacked) as server:
            self.expect_nodes(server)
            run = server.run(api_form.load(self.unpacked / "workflows" / WORKFLOW, server.get("/object_info")))
            if not run.images():
                raise Failed(f"{WORKFLOW} saved no picture.")

    def install_with_manager(self) -> None:
        comfyui = self.folder / "ComfyUI"
        shutil.copytree(comfyui_path(), comfyui)
        # The manager wants a URL with a host.
        url = self.clone.resolve().as_uri().replace("file://", "file://localhost")
        self.environment["COMFYUI_PATH"] = str(comfyui)
        said = self.call([self.script("cm-cli"), "install", url], self.folder)
        if "[INSTALLED]" not in said:
            raise Failed(said)
        with served(comfyui, comfyui, "--cpu") as server:
            self.expect_nodes(server)

    def expect_nodes(self, server: Server) -> None:
        expected = {path.stem for path in (self.clone / "web" / "docs").glob("*.md")}  # every node has a help page
        missing = expected - set(server.get("/object_info"))
        if missing:
            raise Failed(f"missing nodes: {', '.join(sorted(missing))}\n{server.last_words()}")

    def script(self, name: str) -> Path:
        """A command that the registry's tools have installed."""
        return self.tools.with_name(f"{name}.exe" if os.name == "nt" else name)

    def call(self, line: list[str | Path], folder: Path) -> str:
        """What a command says; raises Failed with it where the command fails."""
        arguments = [str(part) for part in line]
        done = subprocess.run(
            arguments, cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8"
        )
        said = done.stdout + done.stderr
        if done.returncode != 0:
            raise Failed(f"`{' '.join(arguments)}` ended with exit status {done.returncode}:\n{said}")
        return said


def shipped_files(clone: Path) -> set[str]:
    """Every tracked file that users need."""
    line = ["git", "-C", str(clone), "ls-files", "-z"]
    tracked = subprocess.run(line, capture_output=True, check=True, encoding="utf-8").stdout.split("\0")
    return {
        name
        for name in tracked
        if name.partition("/")[0] in SHIPPED and not any(f"{name}/".startswith(f"{kept}/") for kept in KEPT_BACK)
    }


def main() -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="postdiff-release-", ignore_cleanup_errors=True) as folder:
        checks = Release(Path(folder), Path(os.environ["RELEASE_TOOLS"])).checks()
        for number, (name, check) in enumerate(checks, start=1):
            print(f"[{number}/{len(checks)}] {name} ... ", end="", flush=True)
            try:
                check()
            except Failed as failure:
                print(f"failed\n{failure}")
                return 1
            print("ok", flush=True)
    print(f"The pack can be published as it was committed last ({time.monotonic() - started:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
