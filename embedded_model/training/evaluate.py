"""Sample every trained prompt through ComfyUI's own nodes and judge the pictures."""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..loader import RECOMMENDED, load_embedded_model
from .config import concepts
from .judge import Judge, wilson_interval

FIRST_SEED = 1000  # prompt i is sampled with seed FIRST_SEED + i


class Sampler:
    """The loaded model behind stock nodes."""

    def __init__(self, weights: Path, steps: int, cfg: float):
        import nodes

        self.nodes = nodes
        self.steps, self.cfg = steps, cfg
        self.model, self.clip, self.vae = load_embedded_model(weights)
        self.negative = self.condition("")

    def condition(self, prompt: str):
        return self.nodes.CLIPTextEncode().encode(self.clip, prompt)[0]

    def decode(self, latent: torch.Tensor) -> np.ndarray:
        return self.nodes.VAEDecode().decode(self.vae, {"samples": latent})[0][0].cpu().numpy()

    def full(self, prompt: str, seed: int) -> np.ndarray:
        latent = self.nodes.EmptyLatentImage().generate(RECOMMENDED["width"], RECOMMENDED["height"], 1)[0]
        sampled = self.nodes.KSampler().sample(
            self.model, seed, self.steps, self.cfg, RECOMMENDED["sampler_name"], RECOMMENDED["scheduler"],
            self.condition(prompt), self.negative, latent,
        )[0]  # fmt: skip
        return self.decode(sampled["samples"])

    def half_start(self, prompt: str, seed: int) -> np.ndarray:
        """Half of the steps at half size, then its upsampled prediction, noised afresh, for the rest."""
        import comfy.sample
        import comfy.samplers

        schedule = comfy.samplers.KSampler(
            self.model, self.steps, self.model.load_device, RECOMMENDED["sampler_name"], RECOMMENDED["scheduler"]
        ).sigmas
        sampler = comfy.samplers.sampler_object(RECOMMENDED["sampler_name"])
        switch = self.steps // 2
        predicted = []

        def stage(latent, seed, sigmas):
            latent = comfy.sample.fix_empty_latent_channels(self.model, latent)
            return comfy.sample.sample_custom(
                self.model, comfy.sample.prepare_noise(latent, seed), self.cfg, sampler, sigmas,
                self.condition(prompt), self.negative, latent,
                callback=lambda step, x0, x, total: predicted.append(x0), disable_pbar=True, seed=seed,
            )  # fmt: skip

        half = self.nodes.EmptyLatentImage().generate(RECOMMENDED["width"] // 2, RECOMMENDED["height"] // 2, 1)[0]
        stage(half["samples"], seed, schedule[: switch + 1])
        upscaled = self.nodes.LatentUpscaleBy().upscale({"samples": predicted[-1].cpu()}, "bilinear", 2.0)[0]["samples"]
        return self.decode(stage(upscaled, seed + 1, schedule[switch:]))


def save_grid(pictures: list[np.ndarray], file: Path, columns: int, side: int = 128) -> None:
    grid = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), "white")
    for i, picture in enumerate(pictures):
        cell = Image.fromarray(np.rint(picture * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
        grid.paste(cell, (i % columns * side, i // columns * side))
    grid.save(file)


def share(hits: list[bool]) -> dict:
    low, high = wilson_interval(sum(hits), len(hits))
    return {"share": round(np.mean(hits).item(), 4), "interval95": [round(low, 4), round(high, 4)], "n": len(hits)}


def judge_run(
    sample: Callable[[str, int], np.ndarray], judge: Judge, every: int, label: str
) -> tuple[dict, list[np.ndarray]]:
    """Sample and judge every `every`-th trained prompt; the result and the pictures."""
    category = {concept.name: concept.category for concept in concepts()}
    pictures, rows, categories = [], [], defaultdict(list)
    began = time.perf_counter()
    for i, (style, name) in tqdm(list(enumerate(judge.pairs))[::every], desc=label, unit="picture"):
        pictures.append(sample(f"{style} {name}", FIRST_SEED + i))
        nearest_style, nearest_name = judge.nearest(pictures[-1])
        rows.append({"prompt": f"{style} {name}", "seed": FIRST_SEED + i, "nearest": f"{nearest_style} {nearest_name}"})
        categories[category[name]].append(nearest_name == name)
    seconds = time.perf_counter() - began
    return {
        "concept": share([hit for hits in categories.values() for hit in hits]),
        "concept_and_style": share([row["prompt"] == row["nearest"] for row in rows]),
        "categories": {name: share(hits) for name, hits in categories.items()},
        "seconds_per_picture": round(seconds / len(rows), 3),
        "missed": [row for row in rows if row["prompt"].split()[1:] != row["nearest"].split()[1:]],
    }, pictures


def evaluate(weights: Path, folder: Path, steps: int, cfg: float, every: int, runs: Iterable[str]) -> dict:
    """Judge the runs named; writes `evaluation.json` and a grid of pictures for each run to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    judge, sampler = Judge.shipped(weights.parent), Sampler(weights, steps, cfg)
    result: dict[str, object] = {
        "weights": weights.name,
        "steps": steps,
        "cfg": cfg,
        "first_seed": FIRST_SEED,
        "device": str(sampler.model.load_device),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    for label in runs:
        result[label], pictures = judge_run(getattr(sampler, label), judge, every, label)
        save_grid(pictures, folder / f"{label}.png", columns=18)
    (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")
    return result
