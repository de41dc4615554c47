"""Command line of the recipe."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .config import Recipe, concepts
from .host import bf16_pays, prepare_comfyui

DENOISERS = ("diffusion", "weak", "schedule")  # the stages that train one
HELP = "default: all but `schedule`, in order"
TIME_IS_UP = "time is up: run the same command again to continue"


@dataclass(frozen=True)
class Session:
    """One call of the recipe: its options, and the folder of every stage's work files."""

    options: argparse.Namespace
    recipe: Recipe
    device: torch.device
    bf16: bool

    def folder(self, stage: str) -> Path:
        return self.options.work / stage

    @property
    def weights(self) -> Path:
        from ..loader import WEIGHTS

        return self.options.weights or WEIGHTS


def run_icons(session: Session) -> None:
    from .icons import render_all

    render_all(session.folder("icons"), session.folder("downloads"), [concept.icon for concept in concepts()])


def run_autoencoder(session: Session) -> None:
    from .autoencoder import load_autoencoder, reconstruction_psnr, train_autoencoder

    icons, folder = session.folder("icons"), session.folder("autoencoder")
    if not train_autoencoder(session.recipe, icons, folder, session.device, session.bf16, session.options.minutes):
        sys.exit(TIME_IS_UP)
    print(f"autoencoder: {reconstruction_psnr(load_autoencoder(folder), icons):.2f} dB on held-out icons")


def run_patches(session: Session) -> None:
    from .autoencoder import load_autoencoder
    from .pictures import encode_patches

    autoencoder = load_autoencoder(session.folder("autoencoder"))
    encode_patches(session.recipe, autoencoder, session.folder("icons"), session.folder("patches"))


def run_diffusion(session: Session) -> None:
    from .diffusion import train_diffusion

    folder, patches, minutes = session.folder("diffusion"), session.folder("patches"), session.options.minutes
    if not train_diffusion(session.recipe, folder, patches, session.device, session.bf16, minutes):
        sys.exit(TIME_IS_UP)


def run_schedule(session: Session) -> None:
    from .diffusion import tune_to_schedule

    trained, folder, patches = (session.folder(stage) for stage in ("diffusion", "schedule", "patches"))
    minutes = session.options.minutes
    if not tune_to_schedule(session.recipe, trained, folder, patches, session.device, session.bf16, minutes):
        sys.exit(TIME_IS_UP)


def run_weak(session: Session) -> None:
    from ..loader import WEIGHTS
    from .diffusion import tune_to_weak_icons
    from .weak import chances, judge_every_icon

    began = time.monotonic()
    recipe, folder, patches = session.recipe, session.folder("weak"), session.folder("patches")
    before = folder / "before" / WEIGHTS.name
    export_denoiser(session, "diffusion", before)
    preferred = chances(recipe.weak_icons, judge_every_icon(recipe.weak_icons, before, folder))
    minutes = session.options.minutes - (time.monotonic() - began) / 60
    if not tune_to_weak_icons(recipe, before, preferred, folder, patches, session.device, session.bf16, minutes):
        sys.exit(TIME_IS_UP)


def export_denoiser(session: Session, stage: str, weights: Path) -> None:
    from .export import export

    icons, autoencoder, patches = (session.folder(each) for each in ("icons", "autoencoder", "patches"))
    export(session.recipe, icons, autoencoder, patches, session.folder(stage), weights)


def run_export(session: Session) -> None:
    export_denoiser(session, session.options.denoiser, session.weights)


def run_evaluate(session: Session) -> None:
    from ..loader import RECOMMENDED
    from .evaluate import Sampler, evaluate

    options = session.options
    steps, cfg = options.steps or RECOMMENDED["steps"], options.cfg or RECOMMENDED["cfg"]
    sampler = Sampler(session.weights, steps, cfg, options.sampler or RECOMMENDED["sampler_name"])
    folder = session.folder("evaluation")
    result = evaluate(sampler, session.weights, folder, options.every, options.number, options.runs)
    print(json.dumps(result, indent=1))


STAGES: dict[str, Callable[[Session], None]] = {
    "icons": run_icons,
    "autoencoder": run_autoencoder,
    "patches": run_patches,
    "diffusion": run_diffusion,
    "weak": run_weak,
    "export": run_export,
    "evaluate": run_evaluate,
}
# Appendix F, to be compared with the model without: then `export --denoiser schedule`
OPTIONAL_STAGES = {"schedule": run_schedule}


def default_work_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(cache) / "postdiff" / "embedded_model"


def odd(text: str) -> int:
    if int(text) % 2 == 0:
        raise argparse.ArgumentTypeError(f"{text} is even: the styles alternate, and one of them would be left out")
    return int(text)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m embedded_model.training", description=__doc__)
    parser.add_argument("stage", nargs="?", choices=("all", *STAGES, *OPTIONAL_STAGES), default="all", help=HELP)
    parser.add_argument("--comfyui", help="ComfyUI folder (default: COMFYUI_PATH)")
    parser.add_argument("--work", type=Path, default=default_work_folder(), help="folder of all work files")
    parser.add_argument("--weights", type=Path, help="file to export or evaluate (default: the shipped one)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--minutes", type=float, default=90, help="stop a stage after this long; run again to continue")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None, help="default: where it is fast")
    parser.add_argument("--denoiser", choices=DENOISERS, default="weak", help="stage to export")
    evaluation = parser.add_argument_group("evaluate")
    evaluation.add_argument("--steps", type=int, help="sampling steps (default: as shipped)")
    evaluation.add_argument("--cfg", type=float, help="guidance (default: as shipped)")
    evaluation.add_argument("--sampler", help="ComfyUI's name of a sampler (default: as shipped)")
    evaluation.add_argument("--every", type=odd, default=1, help="judge only every n-th prompt; odd: styles alternate")
    evaluation.add_argument("--number", type=int, default=128, help="prompts judged of each kind that is sampled")
    evaluation.add_argument("--runs", nargs="+", choices=("full", "half_start"), default=("full", "half_start"))
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    for name in (signal.SIGINT, signal.SIGTERM):  # a stopped stage writes its checkpoint
        signal.signal(name, signal.default_int_handler)
    prepare_comfyui(options.comfyui, options.device, options.threads)
    device = torch.device(options.device)
    session = Session(options, Recipe(), device, bf16_pays(device) if options.bf16 is None else options.bf16)
    for stage in STAGES if options.stage == "all" else (options.stage,):
        {**STAGES, **OPTIONAL_STAGES}[stage](session)


if __name__ == "__main__":
    main()
