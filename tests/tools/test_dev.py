"""dev.py with the real pip and real environments; only the packages are tiny ones made here."""

import base64
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

import pack

SPEC = importlib.util.spec_from_file_location("dev", pack.ROOT / "dev.py")
dev = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(dev)

BACKEND = """
from pathlib import Path
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder) / "tiny_host-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: tiny-host\\nVersion: 1.0\\n")
    return info.name
def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise NotImplementedError
"""
BUILD_SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def write_wheel(folder: Path, name: str) -> None:
    files = {
        f"{name}/__init__.py": "complete = True\n",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-1.0.dist-info/RECORD"
    lines = [f"{path},sha256={digest(text.encode())},{len(text)}" for path, text in files.items()]
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, record: "\n".join([*lines, f"{record},,"])}.items():
            wheel.writestr(path, text)


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def write_source_distribution(folder: Path) -> Path:
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-host\nVersion: 1.0\n",
        "pyproject.toml": BUILD_SYSTEM,
        "backend.py": BACKEND,
        "vendor/ComfyUI/requirements.txt": "tiny_requirement\n",
        "vendor/ComfyUI/comfyui_version.py": '__version__ = "1.0"\n',
        "unrelated.txt": "not part of the host\n",
    }
    archive = folder / "tiny-host-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"tiny-host-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, BytesIO(text.encode()))
    return archive


@pytest.fixture
def lock_file(tmp_path, monkeypatch) -> Path:
    """A lock on tiny packages, which pip finds in a folder and nowhere else."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("tiny_torch", "tiny_tool", "tiny_requirement"):
        write_wheel(packages, name)
    sha256 = hashlib.sha256(write_source_distribution(packages).read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", packages.as_uri())
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "a cache with spaces"))
    path = tmp_path / "lock.json"
    hosts = {dev.DEFAULT_HOST: {"package": "tiny-host==1.0", "sha256": sha256}}
    lock = {"hosts": hosts, "torch": ["tiny_torch"], "tools": ["tiny_tool"], "versions": ["tiny_tool==1.0"]}
    path.write_text(json.dumps(lock), encoding="utf-8")
    return path


def change(lock_file: Path, **changes) -> None:
    lock_file.write_text(json.dumps({**json.loads(lock_file.read_text()), **changes}), encoding="utf-8")


def make_host(lock_file: Path):
    return dev.Host(dev.cache_folder(), lock_file=lock_file)


def works(host) -> bool:
    """Whether the environment imports all three packages whole, and the tree is unpacked."""
    code = "from tiny_torch import complete; from tiny_tool import complete; from tiny_requirement import complete"
    return subprocess.run([host.python, "-c", code]).returncode == 0 and (host.tree / "comfyui_version.py").is_file()


def in_another_process(lock_file: Path, code: str) -> subprocess.Popen:
    """A process with dev.py imported as `dev` and the host at hand."""
    prepare = (
        "import importlib.util, pathlib, sys, time\n"
        f"spec = importlib.util.spec_from_file_location('dev', {str(pack.ROOT / 'dev.py')!r})\n"
        "dev = importlib.util.module_from_spec(spec); spec.loader.exec_module(dev)\n"
        f"host = dev.Host(dev.cache_folder(), lock_file=pathlib.Path({str(lock_file)!r}))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prepare + code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_set_up_makes_a_working_host_and_then_has_nothing_to_do(lock_file, monkeypatch):
    host = make_host(lock_file)
    assert not host.ready()
    host.set_up()
    assert works(host)
    assert not (host.tree / "unrelated.txt").exists()
    monkeypatch.setattr(dev, "call", lambda *_: pytest.fail("a finished set-up runs nothing"))
    make_host(lock_file).set_up()


def test_another_pin_is_another_environment_beside_the_first(lock_file):
    first = make_host(lock_file)
    change(lock_file, versions=["tiny_tool==2.0"])
    second = make_host(lock_file)
    assert first.environment != second.environment
    assert first.tree == second.tree


@pytest.mark.parametrize("finished", [0, 1, 2, 3])
def test_an_interrupted_set_up_goes_on_from_the_last_finished_step(lock_file, monkeypatch, finished):
    real, calls = dev.call, []

    def interrupted(command, remedy):
        if len(calls) == finished:
            raise KeyboardInterrupt
        calls.append(command)
        real(command, remedy)

    host = make_host(lock_file)
    monkeypatch.setattr(dev, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        host.set_up()
    assert not host.ready()
    calls_after: list = []
    monkeypatch.setattr(dev, "call", lambda command, remedy: (calls_after.append(command), real(command, remedy)))
    host.set_up()
    assert works(host)
    assert len(calls_after) == 4 - finished


def test_a_killed_set_up_leaves_no_lock_and_no_half_unpacked_tree(lock_file):
    stop_after_unpacking = "import shutil\nshutil.rmtree = lambda *a, **k: None\n"
    stop_after_unpacking += (
        "pathlib.Path.rename = lambda *a: (print('unpacked', flush=True), time.sleep(60))\nhost.set_up()"
    )
    process = in_another_process(lock_file, stop_after_unpacking)
    assert process.stdout.readline() == "unpacked\n"
    process.kill()
    process.communicate()
    host = make_host(lock_file)
    assert not host.tree.exists()
    host.set_up()
    assert works(host)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends the lock with the process that took it")
def test_a_step_that_outlives_its_killed_set_up_still_holds_the_lock(lock_file, tmp_path):
    lock, working = tmp_path / "lock", tmp_path / "working"
    step = f"import pathlib, time; pathlib.Path({str(working)!r}).touch(); time.sleep(2)"
    hold = f"with dev.exclusive({str(lock)!r}): dev.call([sys.executable, '-c', {step!r}], '')"
    process = in_another_process(lock_file, hold)
    wait_until(working.exists)
    process.kill()
    process.wait()
    with open(lock, "a+b") as file:
        assert not dev.try_lock(file)
        wait_until(lambda: dev.try_lock(file))
    process.communicate()


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_package_that_pip_was_interrupted_in_is_installed_again(lock_file):
    host = make_host(lock_file)
    host.set_up()
    (record,) = host.environment.glob("**/tiny_tool-1.0.dist-info/RECORD")
    record.unlink()
    (record.parent.parent / "tiny_tool" / "__init__.py").write_text("")
    (host.environment / ".done").unlink()
    assert not works(host)
    host.set_up()
    assert works(host)


def test_an_environment_whose_python_is_gone_is_made_again(lock_file):
    host = make_host(lock_file)
    host.set_up()
    host.python.unlink()
    host.set_up()
    assert works(host)


def test_two_set_ups_at_once_share_the_work(lock_file):
    processes = [in_another_process(lock_file, "host.set_up()") for _ in range(2)]
    logs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("[1/4]" in log for log in logs) == 1
    assert sum("waiting" in log for log in logs) == 1
    assert works(make_host(lock_file))


def test_an_archive_with_another_checksum_is_refused(lock_file):
    pinned = "0" * 64
    change(lock_file, hosts={dev.DEFAULT_HOST: {"package": "tiny-host==1.0", "sha256": pinned}})
    host = make_host(lock_file)
    with pytest.raises(dev.SetupError, match=f"step 2 of 4.*\n.*{pinned} is pinned"):
        host.set_up()
    assert not host.tree.exists()


def test_a_failing_step_is_named_with_its_remedy_and_the_finished_ones_are_kept(lock_file):
    change(lock_file, torch=["no_such_torch"])
    host = make_host(lock_file)
    with pytest.raises(dev.SetupError, match="step 3 of 4, torch") as caught:
        host.set_up()
    assert "network" in caught.value.remedy
    assert str(host.cache) in caught.value.remedy
    assert [marker.is_file() for marker, _, _ in host.steps()] == [True, True, False, False]


def test_a_full_disk_is_said_before_anything_is_installed(lock_file, monkeypatch):
    monkeypatch.setattr(dev.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    with pytest.raises(dev.SetupError, match=r"1\.0 GB free") as caught:
        make_host(lock_file).set_up()
    assert "POSTDIFF_CACHE" in caught.value.remedy


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


def test_an_unknown_command_is_answered_with_the_known_ones():
    done = run_dev("demonstrate")
    assert done.returncode == 2
    assert "demo, serve, test" in done.stderr


def test_an_unknown_benchmark_is_answered_with_the_available_ones():
    done = run_dev("--comfyui", str(pack.comfyui_path()), "bench", "nothing")
    assert done.returncode == 1
    assert "There is no benchmark 'nothing'. Available:" in done.stderr
