"""Where the browser of these tests comes from: the machine's, on CI else apt's; and which frontend it shows."""

import os
import stat
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from browser import Canvas, NoBrowser, chromium

APT_GET = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
case "$*" in *install*) {install} ;; esac
"""
INSTALLS_CHROMIUM = """printf '#!/bin/sh\\n' > "$(dirname "$0")/chromium"; chmod +x "$(dirname "$0")/chromium" """
WANTED = ["update -qq", "install -y -qq --no-install-recommends chromium"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="apt is Debian's")


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A folder that holds all commands there are, besides a shell's."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sh", "dirname", "chmod"):
        (commands / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.delenv("CI", raising=False)
    return commands


def add_apt_get(machine: Path, install: str) -> Path:
    """An apt-get that writes down how it is called; the file it writes to."""
    apt_get = machine / "apt-get"
    apt_get.write_text(APT_GET.format(install=install))
    apt_get.chmod(apt_get.stat().st_mode | stat.S_IXUSR)
    return machine / "calls"


def test_a_machine_without_a_browser_is_told_what_to_install_and_nothing_is_installed(machine):
    calls = add_apt_get(machine, INSTALLS_CHROMIUM)
    with pytest.raises(NoBrowser, match="apt install chromium"):
        chromium()
    assert not calls.exists()


def test_ci_installs_the_browser_that_is_missing_and_only_then(machine, monkeypatch):
    calls = add_apt_get(machine, INSTALLS_CHROMIUM)
    monkeypatch.setenv("CI", "true")
    assert [chromium(), chromium()] == [str(machine / "chromium")] * 2
    assert calls.read_text().splitlines() == WANTED


def test_ci_fails_and_does_not_skip_where_the_browser_cannot_be_installed(machine, monkeypatch):
    add_apt_get(machine, "exit 100")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(subprocess.CalledProcessError, match="100"):
        chromium()


def test_the_canvas_is_of_the_frontend_asked_for(canvas: Canvas, pytestconfig: pytest.Config) -> None:
    wanted = pytestconfig.getoption("--frontend") or metadata.version("comfyui-frontend-package")
    assert canvas.js("() => window.__COMFYUI_FRONTEND_VERSION__") == wanted
