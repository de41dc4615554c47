"""Style, rules and types, as `python dev.py check` tells them."""

import subprocess
import sys

import pytest

import check
from pack import ROOT


def test_style_rules_and_types_are_clean():
    result = subprocess.run([sys.executable, ROOT / "tools" / "check.py"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("line", "is_plain"), [("half = '\u00bd'", True), ("arrow = '\u2193'", False)])
def test_a_letter_that_windows_code_page_lacks_is_named_with_its_line(tmp_path, monkeypatch, capsys, line, is_plain):
    monkeypatch.setattr(check, "ROOT", tmp_path)
    source = tmp_path / "source.py"
    source.write_text(f"first = 1\n{line}\n", encoding="utf-8")
    assert check.has_plain_letters(source) == is_plain
    said = "" if is_plain else "source.py:2: write '\\u2193' as an escape: code page 1252 lacks it\n"
    assert capsys.readouterr().out == said
