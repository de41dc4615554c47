"""Every test runs in the real ComfyUI, on CPU with one torch thread, with the pack imported as `postdiff`."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
sys.path += [str(TESTS / "support"), str(TESTS / "packs"), str(TESTS.parent / "tools")]
os.environ["OMP_NUM_THREADS"] = "1"  # also for servers the tests start

import pack  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also the long versions of the tests, which take hours")
    parser.addoption("--frontend", metavar="VERSION", help="for the browser: another comfyui-frontend-package")
    parser.addoption(
        "--pack",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="another node pack to load beside this one, written --pack=FOLDER; tests/packs has tests of several",
    )
    parser.addoption("--graph", help="a graph for tests/host/test_properties.py to run, as it was printed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    long = {item for item in items if item.get_closest_marker("full")}
    config.hook.pytest_deselected(items=list(long))
    items[:] = [item for item in items if item not in long]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: takes long; runs only under --full")
    scratch = tempfile.TemporaryDirectory(prefix="postdiff-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(scratch.cleanup)
    try:
        pack.prepare_comfyui(cpu=True, base_directory=Path(scratch.name))
    except RuntimeError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)

    import torch

    torch.set_num_threads(1)
    pack.load_pack()
    if folders := config.getoption("--pack"):
        import other_packs

        for folder in folders:
            other_packs.load(folder)
