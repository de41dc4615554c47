"""Run one benchmark: benchmarks/NAME.py, with the arguments that follow its name."""

import runpy
import sys

from pack import ROOT


def main(arguments: list[str]) -> None:
    folder = ROOT / "benchmarks"
    available = {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    name = arguments[0] if arguments else ""
    if name not in available:
        wrong = f"There is no benchmark {name!r}" if name else "Name a benchmark"
        sys.exit(f"{wrong}. Available: {', '.join(available)}.")
    sys.argv = [str(available[name]), *arguments[1:]]
    sys.path.insert(0, str(folder))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
