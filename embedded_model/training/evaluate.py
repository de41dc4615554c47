"""Sample every trained prompt through ComfyUI's own nodes and judge the pictures."""

from __future__ import annotations

import json
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..loader import RECOMMENDED, load_embedded_model, sha256
from .captions import ONE_OBJECT, Prompt, held_out_file, random_prompt, read_held_out
from .config import STYLES
from .judge import Judge, foreground_centre, share

FIRST_SEED = 1000  # prompt i of a group is sampled with seed FIRST_SEED + i
VARIETY_PROMPTS, VARIETY_SEEDS = 16, 6


class Sampler:
    """The loaded model behind stock nodes."""

    def __init__(self, weights: Path, steps: int, cfg: float, sampler_name: str = RECOMMENDED["sampler_name"]):
        import nodes

        self.nodes = nodes
        self.steps, self.cfg, self.sampler_name = steps, cfg, sampler_name
        self.model, self.clip, self.vae = load_embedded_model(weights)
        self.negative = self.condition("")

    def condition(self, prompt: str):
        return self.nodes.CLIPTextEncode().encode(self.clip, prompt)[0]

    def decode(self, latent: torch.Tensor) -> np.ndarray:
        return self.nodes.VAEDecode().decode(self.vae, {"samples": latent})[0][0].cpu().numpy()

    def full(self, prompt: str, seed: int) -> np.ndarray:
        latent = self.nodes.EmptyLatentImage().generate(RECOMMENDED["width"], RECOMMENDED["height"], 1)[0]
        sampled = self.nodes.KSampler().sample(
            self.model, seed, self.steps, self.cfg, self.sampler_name, RECOMMENDED["scheduler"],
            self.condition(prompt), self.negative, latent,
        )[0]  # fmt: skip
        return self.decode(sampled["samples"])

    def half_start(self, prompt: str, seed: int) -> np.ndarray:
        """Half of the steps at half size, then its upsampled prediction, noised afresh, for the rest."""
        import comfy.sample
        import comfy.samplers

        schedule = comfy.samplers.KSampler(
            self.model, self.steps, self.model.load_device, self.sampler_name, RECOMMENDED["scheduler"]
        ).sigmas
        sampler = comfy.samplers.sampler_object(self.sampler_name)
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


def judged_prompts(folder: Path, number: int) -> dict[str, list[Prompt]]:
    """What the model beside which `folder` lists its concepts is judged on: every concept in every style, and, where
    captions were held out, up to `number` trained and `number` held-out captions of each further kind."""
    names = list(json.loads((folder / "concepts.json").read_text(encoding="utf-8")))
    chosen = {f"trained, {ONE_OBJECT}": [Prompt(style, (name,)) for name in names for style in STYLES]}
    if not held_out_file(folder).exists():
        return chosen
    never_trained = read_held_out(folder)
    rng = np.random.default_rng(FIRST_SEED)
    for kind, captions in never_trained.items():
        picked = rng.permutation(len(captions))[:number]
        chosen[f"held out, {kind}"] = [Prompt.parse(captions[i]) for i in sorted(picked)]
        unseen = set(captions)
        trained: list[Prompt] = []
        while len(trained) < number:
            prompt = random_prompt(kind, names, rng)
            if str(prompt) not in unseen:
                trained.append(prompt)
        chosen[f"trained, {kind}"] = trained
    return chosen


def judge_run(
    sample: Callable[[str, int], np.ndarray], judge: Judge, prompts: dict[str, list[Prompt]], every: int, label: str
) -> tuple[dict, list[np.ndarray]]:
    """Sample and judge every `every`-th prompt of each group; the result and the pictures."""
    listed = [
        (group, i, prompt) for group, several in prompts.items() for i, prompt in list(enumerate(several))[::every]
    ]
    pictures, missed = [], []
    groups, categories, with_style = defaultdict(list), defaultdict(list), []
    began = time.perf_counter()
    for group, i, prompt in tqdm(listed, desc=label, unit="picture"):
        picture = sample(str(prompt), FIRST_SEED + i)
        pictures.append(picture)
        shown = judge.shown(picture, len(prompt.names))
        right = judge.right(picture, prompt)
        groups[group].append(right)
        if prompt.kind == ONE_OBJECT:
            categories[judge.categories[prompt.names[0]]].append(right)
            with_style.append(shown == [(prompt.style, prompt.names[0])])
        if not right:
            nearest = " and ".join(f"{style} {name}" for style, name in shown)
            missed.append({"prompt": str(prompt), "seed": FIRST_SEED + i, "nearest": nearest})
    seconds = time.perf_counter() - began
    return {
        "groups": {name: share(hits) for name, hits in groups.items()},
        "trained": share([hit for name, hits in groups.items() for hit in hits if name.startswith("trained")]),
        "categories": {name: share(hits) for name, hits in categories.items()},
        "concept_and_style": share(with_style),
        "seconds_per_picture": round(seconds / len(listed), 3),
        "missed": missed,
    }, pictures


def variety(sample: Callable[[str, int], np.ndarray], prompts: list[Prompt], seeds: int) -> dict:
    """How much a seed decides: over the pictures of a prompt, the standard deviation of the foreground
    centre, per axis, in shares of the side, and the PSNR between two pictures; means over the prompts."""
    deviations, similarities = [], []
    for prompt in tqdm(prompts, desc="variety", unit="prompt"):
        pictures = [sample(str(prompt), FIRST_SEED + seed) for seed in range(seeds)]
        centres = np.array([centre for picture in pictures if (centre := foreground_centre(picture))])
        deviations.append(centres.std(axis=0, ddof=1).mean())
        similarities += [psnr(one, other) for one, other in combinations(pictures, 2)]
    return {
        "prompts": len(prompts),
        "seeds": seeds,
        "centre_deviation": round(float(np.mean(deviations)), 4),
        "psnr_between_seeds": round(float(np.mean(similarities)), 2),
    }


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB, of pictures in 0..1; at most 100 for equal ones."""
    return float(-10 * np.log10(max(np.square(one - other).mean(), 1e-10)))


def evaluate(sampler: Sampler, weights: Path, folder: Path, every: int, number: int, runs: Iterable[str]) -> dict:
    """Judge the runs named; writes `evaluation.json` and a grid of pictures for each run to `folder`."""
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)  # one bar for all pictures, none for the steps of each
    folder.mkdir(parents=True, exist_ok=True)
    judge = Judge.shipped(weights.parent)
    prompts = judged_prompts(weights.parent, number)
    result: dict[str, object] = {
        "weights": sha256(weights),
        "every": every,
        "number": number,
        "steps": sampler.steps,
        "cfg": sampler.cfg,
        "sampler": sampler.sampler_name,
        "first_seed": FIRST_SEED,
        "device": str(sampler.model.load_device),
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    for label in runs:
        result[label], pictures = judge_run(getattr(sampler, label), judge, prompts, every, label)
        save_grid(pictures, folder / f"{label}.png", columns=18)
    one_object = prompts[f"trained, {ONE_OBJECT}"]
    result["variety"] = variety(sampler.full, one_object[:: max(1, len(one_object) // VARIETY_PROMPTS)], VARIETY_SEEDS)
    (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result
