"""Which icons the trained denoiser draws wrong: they are shown more often in what remains of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..loader import RECOMMENDED, load_embedded_model
from .captions import Prompt
from .config import STYLES, WeakIcons, concepts
from .judge import Judge

BATCH = 8
UNKNOWN = -1


def judge_every_icon(plan: WeakIcons, weights: Path, folder: Path) -> np.ndarray:
    """Draw every icon alone on white, as shipped but in fewer steps; goes on where it was stopped.

    Returns whether it was drawn right, (pictures, concepts, styles) of 0 and 1.
    """
    prompts = [Prompt(style, (concept.name,)) for concept in concepts() for style in STYLES] * plan.pictures
    folder.mkdir(parents=True, exist_ok=True)
    file, part = folder / "right.npy", folder / "part.npy"
    right = np.load(file) if file.exists() else np.full(len(prompts), UNKNOWN, np.int8)
    left = [first for first in range(0, len(prompts), BATCH) if right[first] == UNKNOWN]
    if left:
        judge, model = Judge.shipped(weights.parent), load_embedded_model(weights)
        for first in tqdm(left, desc="which icons come out wrong", unit="batch"):
            asked = prompts[first : first + BATCH]
            pictures = draw(model, asked, plan.first_seed + first, plan.steps)
            right[first : first + BATCH] = [judge.right(*each) for each in zip(pictures, asked, strict=True)]
            np.save(part, right)
            part.replace(file)
    return right.reshape(plan.pictures, len(concepts()), len(STYLES))


def draw(model: tuple[Any, Any, Any], prompts: Sequence[Prompt], seed: int, steps: int) -> np.ndarray:
    """Pictures (n, h, w, 3) by stock nodes, in one batch."""
    import nodes

    denoiser, clip, vae = model
    encode = nodes.CLIPTextEncode().encode
    positive = torch.cat([encode(clip, str(prompt))[0][0][0] for prompt in prompts])
    latent = nodes.EmptyLatentImage().generate(RECOMMENDED["width"], RECOMMENDED["height"], len(prompts))[0]
    sampled = nodes.KSampler().sample(
        denoiser, seed, steps, RECOMMENDED["cfg"], RECOMMENDED["sampler_name"], RECOMMENDED["scheduler"],
        [[positive, {}]], encode(clip, "")[0], latent,
    )[0]  # fmt: skip
    return nodes.VAEDecode().decode(vae, sampled)[0].cpu().numpy()


def chances(plan: WeakIcons, right: np.ndarray) -> Mapping[str, np.ndarray]:
    """How often each name is shown, by style; `right` as `judge_every_icon` gives it."""
    weights = 1 + (plan.weight - 1) * (1 - right.mean(axis=0))
    return dict(zip(STYLES, (weights / weights.sum(axis=0)).T, strict=True))
