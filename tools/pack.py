"""Import ComfyUI and this pack into the current process, outside a running server."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
ALIAS = "postdiff"


def comfyui_path() -> Path:
    """The ComfyUI tree named by COMFYUI_PATH (dev.py sets it)."""
    given = os.environ.get("COMFYUI_PATH", "")
    if not given:
        raise RuntimeError("COMFYUI_PATH is not set. Start this through `python dev.py`, which sets up ComfyUI.")
    path = Path(given).resolve()
    if not (path / "comfy" / "sd.py").is_file():
        raise RuntimeError(f"COMFYUI_PATH is {given!r}, but that folder holds no ComfyUI (comfy/sd.py is missing).")
    return path


def prepare_comfyui(*, cpu: bool, base_directory: Path | None = None) -> None:
    """Make `comfy` importable without it reading this process's command line.

    Call before the first import of comfy, which reads its options at import time. `base_directory` takes the place of
    the ComfyUI tree for models, outputs and custom nodes, so that nothing is written there.
    """
    host = str(comfyui_path())
    # ComfyUI's own `nodes.py` must be found before this repository's folder of the same name.
    sys.path[:] = [host, *(entry for entry in sys.path if Path(entry or os.curdir).resolve() not in (Path(host), ROOT))]

    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = cpu
    args.use_pytorch_cross_attention = True
    if base_directory is not None:
        args.base_directory = str(base_directory)


def load_pack() -> ModuleType:
    """Import the repository root as the package `postdiff`, whatever its folder is called; return the package."""
    if ALIAS in sys.modules:
        return sys.modules[ALIAS]
    spec = importlib.util.spec_from_file_location(ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[ALIAS]
        raise
    return package
