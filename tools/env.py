"""Print where the host and the pack are, as one JSON object."""

import json
import runpy
import sys

from pack import ROOT, comfyui_path


def main() -> None:
    comfyui = comfyui_path()
    version = runpy.run_path(str(comfyui / "comfyui_version.py"))["__version__"]
    found = {"python": sys.executable, "comfyui": str(comfyui), "comfyui_version": version, "pack": str(ROOT)}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
