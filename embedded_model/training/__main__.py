"""Command line of the recipe."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import torch

from .config import Recipe, concepts
from .host import bf16_pays, prepare_comfyui

TIME_IS_UP = "time is up: run the same command again to continue"
STAGES = ("icons", "autoencoder", "diffusion", "export", "evaluate")


def default_work_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(cache) / "postdiff" / "embedded_model"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded_model.training", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=("all", *STAGES), default="all", help="default: all, in order")
    parser.add_argument("--comfyui", help="ComfyUI folder (default: COMFYUI_PATH)")
    parser.add_argument(
        "--work", type=Path, default=default_work_folder(), help="folder for everything but the weights"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--minutes", type=float, default=90, help="stop a stage after this long; run again to continue")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None, help="default: where it is fast")
    parser.add_argument("--weights", type=Path, help="file to export or evaluate (default: the shipped one)")
    evaluation = parser.add_argument_group("evaluate")
    evaluation.add_argument("--steps", type=int, help="sampling steps (default: as shipped)")
    evaluation.add_argument("--cfg", type=float, help="guidance (default: as shipped)")
    evaluation.add_argument("--every", type=int, default=1, help="judge only every n-th prompt")
    return parser.parse_args(argv)


def main() -> None:
    options = parse_arguments()
    for name in (signal.SIGINT, signal.SIGTERM):  # a stopped stage writes its checkpoint
        signal.signal(name, signal.default_int_handler)
    prepare_comfyui(options.comfyui, options.device, options.threads)
    recipe, device = Recipe(), torch.device(options.device)
    bf16 = bf16_pays(device) if options.bf16 is None else options.bf16
    icons, autoencoder, diffusion = (options.work / name for name in ("icons", "autoencoder", "diffusion"))
    stages = STAGES if options.stage == "all" else (options.stage,)

    if "icons" in stages:
        from .icons import render_all

        render_all(icons, options.work / "downloads", [concept.icon for concept in concepts()])
    if "autoencoder" in stages:
        from .autoencoder import load_autoencoder, reconstruction_psnr, train_autoencoder

        if not train_autoencoder(recipe, icons, autoencoder, device, bf16, options.minutes):
            sys.exit(TIME_IS_UP)
        print(f"autoencoder: {reconstruction_psnr(load_autoencoder(autoencoder), icons):.2f} dB on held-out icons")
    if "diffusion" in stages:
        from .autoencoder import load_autoencoder
        from .diffusion import train_diffusion
        from .pictures import encode_views

        encode_views(recipe, load_autoencoder(autoencoder), icons, diffusion)
        if not train_diffusion(recipe, diffusion, device, bf16, options.minutes):
            sys.exit(TIME_IS_UP)
    if "export" in stages:
        from ..loader import WEIGHTS
        from .export import export

        export(autoencoder, diffusion, options.weights or WEIGHTS)
    if "evaluate" in stages:
        from ..loader import RECOMMENDED, WEIGHTS
        from .evaluate import evaluate

        steps, cfg = options.steps or RECOMMENDED["steps"], options.cfg or RECOMMENDED["cfg"]
        result = evaluate(options.weights or WEIGHTS, icons, options.work / "evaluation", steps, cfg, options.every)
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
