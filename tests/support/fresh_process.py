"""Latents that must not depend on what ran before them: of a few runs, in this process or in one of their own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
    import pack

    pack.prepare_comfyui(cpu=True, base_directory=Path(sys.argv[1]))
    pack.load_pack()

import torch
from safetensors.torch import load_file, save_file

import pack_nodes
import tiny_models
from reference import EVERYTHING, WITHOUT_DEEP_CACHE

STEPS = 6
MODELS = {"unet": tiny_models.small_unet, "pixart": tiny_models.pixart_alpha}


def patched(model: Any) -> Any:
    """The model with every technique that can act on it."""
    return pack_nodes.patched(model, WITHOUT_DEEP_CACHE if tiny_models.is_transformer(model) else EVERYTHING)


def sample(model: Any) -> torch.Tensor:
    return tiny_models.stock_sample(model, steps=STEPS, scheduler="simple")


def latents_of_a_fresh_process() -> dict[str, torch.Tensor]:
    """What `sample(patched(model))` gives in a process that does nothing else, by name of the model."""
    with tempfile.TemporaryDirectory(prefix="postdiff-fresh-") as folder:
        done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"The fresh process failed:\n{done.stderr}")
        return load_file(Path(folder) / "latents.safetensors")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    latents = {name: sample(patched(build())).contiguous() for name, build in MODELS.items()}
    save_file(latents, folder / "latents.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
