"""Set-up with the real pip and real environments; only the packages are tiny ones made here."""

import base64
import hashlib
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

import environment
import pack

NEWEST, OLDER = "2.0", "1.0"
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


def write_wheel(folder: Path, name: str, version: str = "1.0") -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"complete = True\nversion = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{info}/RECORD"
    lines = [f"{path},sha256={digest(text.encode())},{len(text)}" for path, text in files.items()]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, record: "\n".join([*lines, f"{record},,"])}.items():
            wheel.writestr(path, text)


def digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def write_source_distribution(folder: Path, version: str, requirements: str) -> str:
    """A package with a ComfyUI of that version in it; its checksum."""
    files = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: tiny-host\nVersion: {version}\n",
        "pyproject.toml": BUILD_SYSTEM,
        "backend.py": BACKEND.replace("1.0", version),
        "vendor/ComfyUI/requirements.txt": requirements,
        "vendor/ComfyUI/comfyui_version.py": f"__version__ = {version!r}\n",
        "unrelated.txt": "not part of the host\n",
    }
    archive = folder / f"tiny-host-{version}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"tiny-host-{version}/{name}")
            member.size = len(text)
            tar.addfile(member, BytesIO(text.encode()))
    return hashlib.sha256(archive.read_bytes()).hexdigest()


@pytest.fixture
def lock_file(tmp_path, monkeypatch) -> Path:
    """A lock on tiny packages, which pip finds in a folder and nowhere else."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("tiny_torch", "tiny_tool", "tiny_requirement"):
        write_wheel(packages, name)
    write_wheel(packages, "tiny_requirement", "0.9")
    requirements = {OLDER: "tiny_torch\ntiny_requirement==0.9\n", NEWEST: "tiny_torch\ntiny_requirement\n"}
    hosts = {
        version: {"package": f"tiny-host=={version}", "sha256": write_source_distribution(packages, version, wanted)}
        for version, wanted in requirements.items()
    }
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", packages.as_uri())
    monkeypatch.setenv("POSTDIFF_CACHE", str(tmp_path / "a cache with spaces"))
    path = tmp_path / "lock.json"
    lock = {"hosts": hosts, "torch": ["tiny_torch"], "tools": ["tiny_tool"], "versions": ["tiny_tool==1.0"]}
    lock["release"] = ["tiny_requirement==0.9"]
    path.write_text(json.dumps(lock), encoding="utf-8")
    return path


def change(lock_file: Path, **changes) -> None:
    lock_file.write_text(json.dumps({**json.loads(lock_file.read_text()), **changes}), encoding="utf-8")


def make_host(lock_file: Path, version: str | None = None) -> environment.Host:
    return environment.Host(environment.cache_folder(), version, lock_file)


def works(host) -> bool:
    """Whether the environment imports all three packages whole, and the tree is unpacked."""
    code = "from tiny_torch import complete; from tiny_tool import complete; from tiny_requirement import complete"
    return subprocess.run([host.python, "-c", code]).returncode == 0 and (host.tree / "comfyui_version.py").is_file()


def in_another_process(lock_file: Path, code: str) -> subprocess.Popen:
    """A process with tools/environment.py imported and the host at hand."""
    prepare = (
        "import pathlib, sys, time\n"
        f"sys.path.insert(0, {str(pack.ROOT / 'tools')!r})\n"
        "import environment\n"
        f"host = environment.Host(environment.cache_folder(), lock_file=pathlib.Path({str(lock_file)!r}))\n"
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
    monkeypatch.setattr(environment, "call", lambda *_: pytest.fail("a finished set-up runs nothing"))
    make_host(lock_file).set_up()


def test_another_pin_is_another_environment_beside_the_first(lock_file):
    first = make_host(lock_file)
    change(lock_file, versions=["tiny_tool==2.0"])
    second = make_host(lock_file)
    assert first.folder != second.folder
    assert first.tree == second.tree


@pytest.mark.parametrize("finished", [0, 1, 2, 3])
def test_an_interrupted_set_up_goes_on_from_the_last_finished_step(lock_file, monkeypatch, finished):
    real, calls = environment.call, []

    def interrupted(command, remedy):
        if len(calls) == finished:
            raise KeyboardInterrupt
        calls.append(command)
        real(command, remedy)

    host = make_host(lock_file)
    monkeypatch.setattr(environment, "call", interrupted)
    with pytest.raises(KeyboardInterrupt):
        host.set_up()
    assert not host.ready()
    calls_after: list = []
    monkeypatch.setattr(
        environment, "call", lambda command, remedy: (calls_after.append(command), real(command, remedy))
    )
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
    hold = f"with environment.exclusive({str(lock)!r}): environment.call([sys.executable, '-c', {step!r}], '')"
    process = in_another_process(lock_file, hold)
    wait_until(working.exists)
    process.kill()
    process.wait()
    with open(lock, "a+b") as file:
        assert not environment.try_lock(file)
        wait_until(lambda: environment.try_lock(file))
    process.communicate()


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_package_that_pip_was_interrupted_in_is_installed_again(lock_file):
    host = make_host(lock_file)
    host.set_up()
    (record,) = host.folder.glob("**/tiny_tool-1.0.dist-info/RECORD")
    record.unlink()
    (record.parent.parent / "tiny_tool" / "__init__.py").write_text("")
    (host.folder / ".done").unlink()
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
    change(lock_file, hosts={NEWEST: {"package": f"tiny-host=={NEWEST}", "sha256": pinned}})
    host = make_host(lock_file)
    with pytest.raises(environment.SetupError, match=f"step 2 of 4.*\n.*{pinned} is pinned"):
        host.set_up()
    assert not host.tree.exists()


def test_a_failing_step_is_named_with_its_remedy_and_the_finished_ones_are_kept(lock_file):
    change(lock_file, torch=["no_such_torch"])
    host = make_host(lock_file)
    with pytest.raises(environment.SetupError, match="step 3 of 4, torch") as caught:
        host.set_up()
    assert "network" in caught.value.remedy
    assert str(host.cache) in caught.value.remedy
    assert [marker.is_file() for marker, _, _ in host.steps()] == [True, True, False, False]


def test_a_full_disk_is_said_before_anything_is_installed(lock_file, monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1e9}))
    with pytest.raises(environment.SetupError, match=r"1\.0 GB free") as caught:
        make_host(lock_file).set_up()
    assert "POSTDIFF_CACHE" in caught.value.remedy


def versions_in(python: Path) -> str:
    """What an environment imports, and how many packages it holds itself."""
    code = (
        "import tiny_torch, tiny_tool, tiny_requirement as r; print(tiny_torch.version, tiny_tool.version, r.version)"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def own_packages(environment: environment.Environment) -> set[str]:
    return {info.name for info in environment.folder.glob("**/tiny_*.dist-info")}


def test_an_older_release_shares_what_it_does_not_pin_otherwise_and_leaves_the_newest_as_it_was(lock_file):
    older, newest = make_host(lock_file, OLDER), make_host(lock_file)
    older.set_up()
    assert newest.ready()
    assert versions_in(older.python) == "1.0 1.0 0.9"
    assert versions_in(newest.python) == "1.0 1.0 1.0"
    assert own_packages(older) == {"tiny_requirement-0.9.dist-info"}
    assert OLDER in (older.tree / "comfyui_version.py").read_text()
    assert NEWEST in (newest.tree / "comfyui_version.py").read_text()


def test_an_interrupted_older_release_goes_on_from_the_last_finished_step(lock_file, monkeypatch):
    older = make_host(lock_file, OLDER)
    older.newest.set_up()
    with monkeypatch.context() as interrupted:
        interrupted.setattr(older, "install_requirements", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            older.set_up()
    assert [marker.is_file() for marker, _, _ in older.steps()] == [True, True, False]
    older.set_up()
    assert versions_in(older.python) == "1.0 1.0 0.9"


def test_the_release_tools_lie_apart_from_the_environment_that_they_use(lock_file):
    host = make_host(lock_file)
    host.set_up()
    before = own_packages(host)
    tools = environment.ReleaseTools(environment.cache_folder(), host.python, lock_file)
    tools.set_up()
    assert versions_in(tools.python) == "1.0 1.0 0.9"
    assert own_packages(tools) == {"tiny_requirement-0.9.dist-info"}
    assert own_packages(host) == before


def test_an_unknown_release_is_answered_with_the_known_ones(lock_file):
    with pytest.raises(environment.SetupError, match=r"ComfyUI 0\.1 is not in") as caught:
        make_host(lock_file, "0.1")
    assert f"{OLDER}, {NEWEST}" in caught.value.remedy


def test_the_pinned_releases_run_from_the_oldest_to_the_newest():
    versions = list(json.loads(environment.LOCK_FILE.read_text(encoding="utf-8"))["hosts"])
    assert versions == sorted(versions, key=lambda version: [int(part) for part in version.split(".")])
