"""Style, rules and types, as `python dev.py check` tells them."""

import subprocess
import sys

from pack import ROOT


def test_style_rules_and_types_are_clean():
    result = subprocess.run([sys.executable, ROOT / "tools" / "check.py"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
