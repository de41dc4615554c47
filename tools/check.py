"""Style, rules and types of everything in the repository: ruff and pyrefly, configured in pyproject.toml."""

import subprocess
import sys
import tempfile
from pathlib import Path

from host import place_pack
from pack import ROOT, comfyui_path

SOURCES = ("__init__.py", "dev.py", "nodes", "postdiff_core", "embedded_model", "benchmarks", "tools", "tests")


def main() -> int:
    sources = [name for name in SOURCES if (ROOT / name).exists()]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        alias = place_pack(Path(folder)).parent  # where tests find the pack as `postdiff`
        search = [f"--search-path={path}" for path in (comfyui_path(), "tools", "tests/support", alias)]
        checks = {
            "rules": ["ruff", "check", *sources],
            "format": ["ruff", "format", "--check", *sources],
            "types": ["pyrefly", "check", "--python-interpreter-path", sys.executable, *search, *sources],
        }
        failed = [name for name, check in checks.items() if not passes(name, check)]
    print(f"Failed: {', '.join(failed)}." if failed else "All checks passed.")
    return len(failed)


def passes(name: str, check: list[str]) -> bool:
    print(f"== {name}: {' '.join(check[:2])}", flush=True)
    return subprocess.run([sys.executable, "-m", *check], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
