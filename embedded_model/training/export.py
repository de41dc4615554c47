"""Write the shipped files: weights and their checksum, the concepts, and the judge's copy of the training pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..architecture import UNET, Autoencoder, text_encoder_config
from ..loader import METADATA_KEY, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, checksum_file, sha256
from .autoencoder import load_autoencoder
from .captions import held_out_file, vocabulary, write_held_out
from .config import STYLES, Recipe, concepts
from .diffusion import load_text_to_image
from .icons import over_background
from .judge import Judge
from .pictures import Composer, draw_prompt, draw_scene


@torch.no_grad()
def preview_colours(autoencoder: Autoencoder, latents: torch.Tensor) -> tuple[list[list[float]], list[float]]:
    """Least-squares RGB of a latent pixel: ComfyUI's `latent_rgb_factors` (8, 3) and their bias (3)."""
    colours = F.avg_pool2d(autoencoder.decode(latents).clamp(-1, 1), 8).movedim(1, -1).reshape(-1, 3)
    pixels = latents.movedim(1, -1).reshape(-1, latents.shape[1])
    design = torch.cat((pixels, torch.ones(len(pixels), 1)), dim=1)
    solution = torch.linalg.lstsq(design, colours).solution.round(decimals=4)
    return solution[:-1].tolist(), solution[-1].tolist()


def with_prefix(prefix: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: t.half() if t.is_floating_point() else t for key, t in state_dict.items()}


def sample_latents(recipe: Recipe, patches: Path, number: int = 128) -> torch.Tensor:
    """Latents of some training pictures at full size, (number, 8, 32, 32)."""
    rng, composer = np.random.default_rng(recipe.seed), Composer(recipe.pictures, patches)
    scenes = [draw_scene(draw_prompt(recipe, rng), recipe.pictures, rng) for _ in range(number)]
    return torch.stack([composer.latents(scene, max(recipe.pictures.sides)) for scene in scenes])


def export(
    recipe: Recipe, icons: Path, autoencoder_folder: Path, patches: Path, diffusion_folder: Path, weights: Path
) -> None:
    autoencoder, text_to_image = load_autoencoder(autoencoder_folder), load_text_to_image(diffusion_folder)
    words = vocabulary()
    factors, bias = preview_colours(autoencoder, sample_latents(recipe, patches))
    metadata = {
        "unet": UNET,
        "text_encoder": text_encoder_config(words),
        "words": words,
        "latent_rgb_factors": factors,
        "latent_rgb_factors_bias": bias,
    }
    state_dict = {
        **with_prefix(UNET_PREFIX, text_to_image.unet.state_dict()),
        **with_prefix(TEXT_PREFIX, text_to_image.text_encoder.state_dict()),
        **with_prefix(VAE_PREFIX, autoencoder.state_dict()),
    }
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(state_dict, weights, metadata={METADATA_KEY: json.dumps(metadata)})
    weights.chmod(0o644)  # save_file keeps the file to its owner
    checksum_file(weights).write_text(f"{sha256(weights)}  {weights.name}\n")
    listed = {
        concept.name: {
            "category": concept.category,
            **{STYLES[style][0]: concept.icon for style in STYLES},
            "mirrored": concept.mirrored,
        }
        for concept in concepts()
    }
    weights.with_name("concepts.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    write_held_out(recipe, held_out_file(weights.parent))
    rgba = np.load(icons / "concepts.npy", mmap_mode="r")
    pictures = (over_background(icon).astype(np.float32) / 255 for icon in rgba.reshape(-1, *rgba.shape[2:]))
    pairs = [(style, concept.name) for concept in concepts() for style in STYLES]
    Judge.from_pictures(pictures, pairs).save(weights.with_name("training_pictures.webp"))
    print(f"{weights}: {weights.stat().st_size / 1e6:.2f} MB, {len(listed)} concepts")
