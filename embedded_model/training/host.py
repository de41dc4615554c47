"""ComfyUI outside its server: where it lies, on which device, with how many threads."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import amp


def prepare_comfyui(path: str | None, device: str, threads: int) -> None:
    """Make `import comfy` work and keep it from reading this program's command line."""
    path = path or os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "comfy").is_dir():
        raise SystemExit(
            f"ComfyUI not found at {path!r}: give --comfyui or set COMFYUI_PATH (`python dev.py env` prints it)"
        )
    sys.path.insert(0, str(path))
    torch.set_num_threads(threads)
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = device == "cpu"


def bf16_pays(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported()
    return torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    return amp.autocast(device.type, torch.bfloat16, enabled=bf16)


def generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one training step, the same on every device and after every interruption."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
