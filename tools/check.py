"""Rules and format of everything in the repository (ruff), types of all but the tests (pyrefly); see pyproject.toml.

And sources whose every letter is in Windows' code page 1252, in which tools there may read them.
"""

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
            "letters": all([has_plain_letters(path) for name in everything for path in sources(ROOT / name)]),
            "types": passes([*pyrefly, *(f"{PACK_FOLDER}/{name}" for name in typed)], parent),
        }
    failed = [name for name, result in passed.items() if not result]
    print(f"Failed: {', '.join(failed)}." if failed else "All checks passed.")
    return len(failed)


def sources(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("*.py"))


def has_plain_letters(source: Path) -> bool:
    """Whether code page 1252 has every letter; prints the lines in which it has not."""
    is_plain = True
    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            line.encode("cp1252")
        except UnicodeEncodeError as error:
            letter = ascii(line[error.start])
            print(f"{source.relative_to(ROOT)}:{number}: write {letter} as an escape: code page 1252 lacks it")
            is_plain = False
    return is_plain


def passes(check: list[str], folder: Path) -> bool:
    print(f"== {' '.join(check[:2])}", flush=True)
    return subprocess.run([sys.executable, "-m", *check], cwd=folder).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
