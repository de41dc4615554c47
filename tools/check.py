"""Rules and format of everything in the repository (ruff), types of all but the tests (pyrefly); see pyproject.toml."""

import subprocess
import sys
import tempfile
from pathlib import Path

from host import place_pack
from pack import ROOT, comfyui_path

TYPED = ("__init__.py", "dev.py", "nodes", "postdiff_core", "embedded_model", "benchmarks", "tools")


def main() -> int:
    typed = [name for name in TYPED if (ROOT / name).exists()]
    sources = [*typed, "tests"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        alias = place_pack(Path(folder)).parent  # where benchmarks find the pack as `postdiff`
        search = [f"--search-path={path}" for path in (comfyui_path(), "tools", alias)]
        checks = {
            "rules": ["ruff", "check", *sources],
            "format": ["ruff", "format", "--check", *sources],
            "types": ["pyrefly", "check", "--python-interpreter-path", sys.executable, *search, *typed],
        }
        failed = [name for name, check in checks.items() if not passes(name, check)]
    print(f"Failed: {', '.join(failed)}." if failed else "All checks passed.")
    return len(failed)


def passes(name: str, check: list[str]) -> bool:
    print(f"== {name}: {' '.join(check[:2])}", flush=True)
    return subprocess.run([sys.executable, "-m", *check], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
