"""Run the core suite on every release of ComfyUI in tests/host-lock.json; write their table in README.md.

A release that has passed is not run again until the pack, its tests or the tools change; so an interrupted round goes
on where it was.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from environment import LOCK_FILE, cache_folder
from pack import ROOT

DOCUMENT = ROOT / "README.md"
BEGIN = "<!-- releases: written by `python dev.py test --host all` -->"
END = "<!-- /releases -->"
DECIDING = ("*.py", "*.mjs", "*.js", "*.css", "*.json", "*.toml", "embedded_model")  # what can change a result


@dataclass(frozen=True)
class Result:
    """What a suite said about one release."""

    version: str
    date: str
    passed: int
    failed: int
    skipped: dict[str, int]  # reason: tests

    def row(self) -> str:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in self.skipped.items()) or "none"
        verdict = f"**{self.failed} failed**" if self.failed else "passed"
        return f"| {self.version} | {verdict} | {self.passed} | {reasons} | {self.date} |"


def releases() -> list[str]:
    """Oldest first."""
    return list(json.loads(LOCK_FILE.read_text(encoding="utf-8"))["hosts"])


def read_report(report: Path, version: str) -> Result:
    """The result in pytest's XML report."""
    passed, failed, skipped = 0, 0, Counter[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        if (skip := case.find("skipped")) is not None:
            skipped[skip.get("message", "")] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        else:
            passed += 1
    return Result(version, datetime.date.today().isoformat(), passed, failed, dict(skipped))


def run_suite(version: str) -> Result:
    """Run the core suite on a release; raises RuntimeError where it did not get as far as a report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        line = [sys.executable, str(ROOT / "dev.py"), "test", "--host", version, f"--junitxml={report}"]
        code = subprocess.run(line, cwd=ROOT).returncode
        if code not in (0, 1) or not report.is_file():
            raise RuntimeError(f"The tests on ComfyUI {version} ended with exit status {code}, without a report.")
        return read_report(report, version)


def fingerprint() -> str:
    """A short name for everything in the repository that can change a result."""
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *DECIDING]
    names = subprocess.run(line, cwd=ROOT, capture_output=True, check=True, encoding="utf-8").stdout.split("\0")
    content = hashlib.sha256()
    for path in (ROOT / name for name in sorted(filter(None, names))):
        if path.is_file():
            content.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:12]


def results(folder: Path) -> list[Result]:
    """Every release's result; what has passed is kept in `folder` and read from there the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, version in enumerate(releases(), start=1):
        kept = folder / f"{version}.json"
        if kept.is_file():
            result = Result(**json.loads(kept.read_text(encoding="utf-8")))
        else:
            print(f"== ComfyUI {version} ({number} of {len(releases())})", flush=True)
            result = run_suite(version)
            if not result.failed:
                partial = kept.with_suffix(".partial")
                partial.write_text(json.dumps(dataclasses.asdict(result)), encoding="utf-8")
                os.replace(partial, kept)
        found.append(result)
    return found


def table(found: list[Result]) -> str:
    """The table as Markdown, newest release first."""
    rows = [result.row() for result in reversed(found)]
    head = ["| ComfyUI | core suite | tests passed | skipped | date |", "|---|---|---|---|---|"]
    return "\n".join([BEGIN, *head, *rows, END])


def with_table(text: str, new: str) -> str:
    """The document with its table replaced; raises ValueError where its two marks are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} has no {BEGIN} ... {END}")
    return before + new + after


def main() -> int:
    found = results(cache_folder() / "releases" / fingerprint())
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
    print(f"{DOCUMENT.name}: the table of {len(found)} releases is written.")
    return sum(result.failed > 0 for result in found)


if __name__ == "__main__":
    sys.exit(main())
