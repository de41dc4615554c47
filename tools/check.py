"""Rules and format of everything in the repository (ruff), types of all but the tests (pyrefly); see pyproject.toml."""

import subprocess
import sys
import tempfile
from pathlib import Path

from host import PACK_FOLDER, place_pack
from pack import ROOT, comfyui_path

TYPED = ("__init__.py", "dev.py", "nodes", "postdiff_core", "embedded_model", "benchmarks", "tools")
IMPORTED_FROM = ("tools", "benchmarks", "tests/support", "tests/web")


def main() -> int:
    typed = [name for name in TYPED if (ROOT / name).exists()]
    everything = [*typed, "tests"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        parent = place_pack(Path(folder)).parent  # in a folder called `postdiff`, which is what benchmarks import
        search = [comfyui_path(), parent, *(parent / PACK_FOLDER / name for name in IMPORTED_FROM)]
        pyrefly = ["pyrefly", "check", "--config", str(ROOT / "pyproject.toml"), "--output-format", "min-text"]
        pyrefly += ["--python-interpreter-path", sys.executable, *(f"--search-path={path}" for path in search)]
        passed = {
            "rules": passes(["ruff", "check", "--output-format", "concise", *everything], ROOT),
            "format": passes(["ruff", "format", "--check", "--output-format", "concise", *everything], ROOT),
            "types": passes([*pyrefly, *(f"{PACK_FOLDER}/{name}" for name in typed)], parent),
        }
    failed = [name for name, result in passed.items() if not result]
    print(f"Failed: {', '.join(failed)}." if failed else "All checks passed.")
    return len(failed)


def passes(check: list[str], folder: Path) -> bool:
    print(f"== {' '.join(check[:2])}", flush=True)
    return subprocess.run([sys.executable, "-m", *check], cwd=folder).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
