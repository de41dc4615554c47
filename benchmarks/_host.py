"""Start ComfyUI and the pack inside a benchmark."""

from __future__ import annotations

import argparse
import atexit
import sys
import tempfile
from pathlib import Path

from arguments import positive
from pack import ROOT, load_pack, prepare_comfyui

DTYPES = ("bf16", "fp16", "fp32")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say where a benchmark runs."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--threads", type=positive, help="torch threads on the CPU; default: torch's own choice")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def add_timing_options(parser: argparse.ArgumentParser) -> None:
    """The options that say in which number format a benchmark runs, and how it is timed."""
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time, for a CPU that is in use by others",
    )
    parser.add_argument("--repeats", type=positive, default=3, help="rounds; each runs every row once")


def start(options: argparse.Namespace) -> None:
    """Make comfy, the pack (as `postdiff`) and tests/support importable; fills in options.device."""
    import torch

    if options.device is None:
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA GPU here. Leave it out to measure on the CPU.")
    if options.threads:
        torch.set_num_threads(options.threads)
    scratch = tempfile.TemporaryDirectory(prefix="postdiff-bench-", ignore_cleanup_errors=True)
    atexit.register(scratch.cleanup)
    prepare_comfyui(cpu=options.device == "cpu", base_directory=Path(scratch.name))
    sys.path.append(str(ROOT / "tests" / "support"))
    load_pack()

    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)  # the benchmark shows its own


def dtype_of(options: argparse.Namespace):
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[options.dtype]
