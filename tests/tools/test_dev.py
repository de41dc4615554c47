"""The one command: what it asks of which ComfyUI, and what it says to a wrong line."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pack

SPEC = importlib.util.spec_from_file_location("dev", pack.ROOT / "dev.py")
dev = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dev)


def run_dev(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, pack.ROOT / "dev.py", *arguments], capture_output=True, text=True)


def test_env_prints_where_an_existing_comfyui_is():
    import comfyui_version

    done = run_dev("env", "--comfyui", str(pack.comfyui_path()))
    assert json.loads(done.stdout) == {
        "python": sys.executable,
        "comfyui": str(pack.comfyui_path()),
        "comfyui_version": comfyui_version.__version__,
        "pack": str(pack.ROOT),
    }


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot replace a process")
def test_the_users_own_python_keeps_its_environment_and_the_cached_one_is_shielded_from_it(monkeypatch):
    def environment_of(python: str) -> dict[str, str]:
        ran = []
        monkeypatch.setattr(dev.os, "execve", lambda program, line, environment: ran.append(environment) or sys.exit())
        with pytest.raises(SystemExit):
            dev.run(Path(python), Path("/a/ComfyUI"), "env", [])
        return ran[0]

    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    users, cached = environment_of(sys.executable), environment_of("/a/cache/bin/python")
    assert users["COMFYUI_PATH"] == cached["COMFYUI_PATH"] == "/a/ComfyUI"
    assert users["PYTHONPATH"] == "/of/the/user"
    assert "PYTHONPATH" not in cached


def test_a_folder_without_comfyui_is_refused_with_a_remedy(tmp_path):
    done = run_dev("--comfyui", str(tmp_path), "env")
    assert done.returncode == 1
    assert "is not a ComfyUI folder" in done.stderr
    assert "Remedy: Name the folder" in done.stderr


def test_a_release_and_a_folder_together_are_refused(monkeypatch):
    done = run_dev("env", "--comfyui", str(pack.comfyui_path()), "--host", "0.16.3")
    assert done.returncode == 1
    assert "Remedy: Leave one of them out." in done.stderr


def test_a_python_that_does_not_run_comfyui_is_refused(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    bare = tmp_path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(command):
        line = [bare, pack.ROOT / "dev.py", "--comfyui", pack.comfyui_path(), command]
        return subprocess.run(line, capture_output=True, text=True, env=dev.clean_environment())

    refused = run("serve")
    assert refused.returncode == 1
    assert "lacks torch, aiohttp, psutil" in refused.stderr and "or without COMFYUI_PATH" in refused.stderr
    assert run("env").returncode == 0


def test_a_python_that_runs_comfyui_is_told_which_developer_tools_it_lacks(monkeypatch):
    monkeypatch.setattr(dev, "developer_tools", lambda: ["pytest", "a-tool-of-ours"])
    for command in ("demo", "serve", "env", "bench", "evaluate"):
        dev.require_packages(command)
    with pytest.raises(dev.SetupError, match="lacks a-tool-of-ours, which `test`") as refused:
        dev.require_packages("test")
    assert refused.value.remedy.endswith("-m pip install a-tool-of-ours")


@pytest.mark.parametrize(
    ("command", "host", "chosen"),
    [
        ("test", None, ("test", ["-x"], None)),
        ("test", "0.16.3", ("test", ["--core", "-x"], "0.16.3")),
        ("test", "all", ("releases", ["-x"], None)),
        ("serve", "0.16.3", ("serve", ["-x"], "0.16.3")),
    ],
)
def test_a_release_named_for_the_tests_means_its_core_suite(command, host, chosen):
    assert dev.choose_tool(command, host, ["-x"]) == chosen


def test_a_release_named_counts_more_than_the_folder_in_the_environment(monkeypatch):
    class Chosen:
        python, tree = Path("python"), Path("tree")

        def __init__(self, cache, version):
            self.version = version

        def set_up(self):
            assert self.version == "0.16.3"

    monkeypatch.setenv("COMFYUI_PATH", str(pack.comfyui_path()))
    monkeypatch.setattr(dev, "Host", Chosen)
    assert dev.choose_host(None, "0.16.3") == (Path("python"), Path("tree"))


def test_an_unknown_command_is_answered_with_the_known_ones():
    done = run_dev("demonstrate")
    assert done.returncode == 2
    assert "demo, serve, test" in done.stderr


def test_an_unknown_benchmark_is_answered_with_the_available_ones():
    done = run_dev("--comfyui", str(pack.comfyui_path()), "bench", "nothing")
    assert done.returncode == 1
    assert "There is no benchmark 'nothing'. Available:" in done.stderr


@pytest.mark.parametrize("command", dev.WITHOUT_ARGUMENTS)
def test_a_command_without_arguments_does_not_run_when_it_is_asked_for_help(command):
    done = run_dev(command, "--help", "--comfyui", str(pack.comfyui_path()))
    assert done.returncode == 2
    assert f"`{command}` takes no arguments; given: --help" in done.stdout + done.stderr
