"""Run the tests. Every argument is passed on to pytest; `--full` (tests/conftest.py) adds the long ones."""

import os
import sys
from pathlib import Path

import pytest

from pack import ROOT


def main(arguments: list[str]) -> int:
    here = Path.cwd()
    os.chdir(ROOT)  # where pyproject.toml has pytest's settings
    return pytest.main([from_root(here, each) for each in arguments])


def from_root(here: Path, argument: str) -> str:
    """An argument with its path, if it names a test file or folder, turned absolute."""
    path, separator, test = argument.partition("::")
    full = (here / path).resolve()
    return f"{full}{separator}{test}" if full.exists() and full.is_relative_to(ROOT / "tests") else argument


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
