"""The table of tested releases: read from pytest's own report, resumed, and in step with what pyproject.toml claims."""

import re
import subprocess
import sys

import pytest

import releases
from pack import ROOT
from releases import Result

SUITE = """
import pytest
def test_passes(): pass
def test_fails(): assert False
@pytest.fixture
def broken(): raise OSError
def test_errors(broken): pass
@pytest.mark.parametrize("number", [1, 2])
def test_skips(number): pytest.skip("no such node there")
"""


def result(version: str, failed: int = 0) -> Result:
    return Result(version, "2026-01-02", passed=5, failed=failed, skipped={})


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """The releases whose suite ran, without running it."""
    versions = []
    monkeypatch.setattr(releases, "releases", lambda: ["1.0", "2.0", "3.0"])
    monkeypatch.setattr(releases, "run_suite", lambda version: versions.append(version) or result(version))
    return versions


def test_a_result_is_read_from_pytests_own_report(tmp_path):
    (tmp_path / "test_suite.py").write_text(SUITE)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml"]
    subprocess.run(line, cwd=tmp_path, capture_output=True)
    read = releases.read_report(tmp_path / "report.xml", "1.0")
    assert (read.passed, read.failed, read.skipped) == (1, 2, {"no such node there": 2})


def test_a_release_that_has_passed_is_not_run_again(tmp_path, ran):
    assert releases.results(tmp_path) == releases.results(tmp_path)
    assert ran == ["1.0", "2.0", "3.0"]


def test_an_interrupted_round_goes_on_where_it_was(tmp_path, ran, monkeypatch):
    counted = releases.run_suite

    def interrupted(version: str) -> Result:
        if version == "2.0":
            raise KeyboardInterrupt
        return counted(version)

    with monkeypatch.context() as first_round:
        first_round.setattr(releases, "run_suite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            releases.results(tmp_path)
    assert [found.version for found in releases.results(tmp_path)] == ["1.0", "2.0", "3.0"]
    assert ran == ["1.0", "2.0", "3.0"]


def test_a_release_that_fails_is_said_and_run_again(tmp_path, ran, monkeypatch):
    with monkeypatch.context() as first_round:
        first_round.setattr(releases, "run_suite", lambda version: result(version, failed=2))
        assert "| 2.0 | **2 failed** | 5 | none | 2026-01-02 |" in releases.table(releases.results(tmp_path))
    releases.results(tmp_path)
    assert ran == ["1.0", "2.0", "3.0"]


def test_the_table_takes_its_place_in_the_readme_and_nothing_else_changes():
    text = f"before\n\n{releases.BEGIN}\nold\n{releases.END}\n\nafter\n"
    new = releases.with_table(text, releases.table([result("1.0")]))
    assert new.startswith("before\n\n") and new.endswith("\n\nafter\n")
    assert "old" not in new and "| 1.0 | passed | 5 | none |" in new
    with pytest.raises(ValueError, match="has no <!-- releases"):
        releases.with_table("a document without its marks", "")


def test_every_pinned_release_is_in_the_readme_and_the_oldest_that_passes_is_the_one_that_is_required():
    rows = re.findall(r"^\| (\d+\.\d+\.\d+) \| (.+?) \|", releases.DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert [version for version, _ in rows] == releases.releases()[::-1]
    passed = [version for version, verdict in rows if verdict == "passed"]
    assert passed == releases.releases()[: -len(passed) - 1 : -1], "an older release passes where a newer one fails"
    assert f'requires-comfyui = ">={passed[-1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
