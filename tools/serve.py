"""Open ComfyUI's canvas with this pack loaded. Every argument is passed on to ComfyUI."""

import os
import runpy
import sys
from pathlib import Path

from host import device_flags, place_pack
from pack import comfyui_path


def main(flags: list[str]) -> None:
    base = Path(os.environ["POSTDIFF_CACHE"]) / "canvas"  # workflows and pictures stay from one start to the next
    place_pack(base)
    comfyui = comfyui_path()
    ours = ["--base-directory", str(base), "--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    ours += ["--auto-launch", *device_flags(flags)]
    sys.argv = [str(comfyui / "main.py"), *ours, *flags]
    sys.path[0] = str(comfyui)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
