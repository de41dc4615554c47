"""Run the tests. Every argument is passed on to pytest."""

import sys
from pathlib import Path

import pytest

from pack import ROOT

TESTS = ROOT / "tests"


def main(arguments: list[str]) -> int:
    chosen = any(Path(each.partition("::")[0]).resolve().is_relative_to(TESTS) for each in arguments)
    everything = [] if chosen else [str(TESTS)]
    return pytest.main(["-c", str(TESTS / "pytest.ini"), "--rootdir", str(TESTS), *arguments, *everything])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
