"""Open ComfyUI's canvas with this pack loaded. Every argument is passed on to ComfyUI."""

import json
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
    ours += ["--extra-model-paths-config", str(models_of(comfyui, base)), "--auto-launch", *device_flags(flags)]
    sys.argv = [str(comfyui / "main.py"), *ours, *flags]
    sys.path[0] = str(comfyui)
    runpy.run_path(sys.argv[0], run_name="__main__")


def models_of(comfyui: Path, base: Path) -> Path:
    """A file in `base` that names the ComfyUI's own model folders, which --base-directory would hide."""
    models = comfyui / "models"
    folders = {folder.name: folder.name for folder in sorted(models.glob("*/"))}
    file = base / "extra_model_paths.yaml"
    file.write_text(json.dumps({"comfyui": {"base_path": str(models), **folders}}), encoding="utf-8")  # JSON is YAML
    return file


if __name__ == "__main__":
    main(sys.argv[1:])
