"""Pictures of a setting for numbered pairs of prompt and seed, kept in a folder so that a stopped benchmark goes on."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import _candidates
import nodes as core_nodes
import torch
from _measure import count
from _quality_settings import Setting
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_tomesd import TomePatchModel
from safetensors import safe_open
from safetensors.torch import save_file

from postdiff.embedded_model import loader
from postdiff.nodes.cfg_cutoff import CFGCutoff
from postdiff.nodes.cross_attn_cache_patch import CrossAttnCachePatch
from postdiff.nodes.deep_cache_patch import DeepCachePatch
from postdiff.nodes.mixed_resolution_ksampler import MixedResolutionKSampler
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler

SEED = 1000
RUN_PAIRS = 8  # in one run: a batch of them takes less time than one at a time, and little is lost when stopped
SAME = 5e-3  # of a latent's unit variance: what rounding in batches and in 16 bit may change

NODES: Mapping[str, type] = {
    "KSampler": core_nodes.KSampler,
    "PostDiffKSampler": PostDiffKSampler,
    "MixedResolutionKSampler": MixedResolutionKSampler,
    "DeepCachePatch": DeepCachePatch,
    "CrossAttnCachePatch": CrossAttnCachePatch,
    "CFGCutoff": CFGCutoff,
    "EasyCache": EasyCacheNode,
    "LazyCache": LazyCacheNode,
    "TomePatchModel": TomePatchModel,
    "PatchModelAddDownscale": PatchModelAddDownscale,
    "CFGOverride": CFGOverride,
}


class Subject:
    """The embedded model behind stock nodes, and its pairs: the same prompt and noise for every setting.

    Pair i is prompt `first` + i of a shuffled list and that picture of the batch that SEED draws: what ComfyUI draws
    for a latent with this `batch_index`, alone or among others. `dtype` is what the denoiser computes in, by default
    what ComfyUI chooses.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        weights: Path = loader.WEIGHTS,
        dtype: torch.dtype | None = None,
        first: int = 0,
    ) -> None:
        self.first = first
        self.weights_hash = loader.sha256(weights)
        self.model, self._clip, self.vae = loader.load_embedded_model(weights, dtype=dtype)
        self._prompts = random.Random(SEED).sample(list(prompts), len(prompts))
        sampling = [*loader.RECOMMENDED.values(), self.dtype, self.model.load_device.type]
        pairs = json.dumps([SEED, first, *self._prompts, *map(str, sampling)])
        self.key = hashlib.sha256((self.weights_hash + pairs).encode()).hexdigest()[:16]
        self._encoded: dict[str, torch.Tensor] = {}

    @property
    def dtype(self) -> str:
        """What the denoiser computes in, as torch names it."""
        return str(self.model.model.get_dtype_inference()).removeprefix("torch.")

    def prompt(self, pair: int) -> str:
        return self._prompts[(self.first + pair) % len(self._prompts)]

    def draw(self, setting: Setting, pairs: range) -> torch.Tensor:
        """The latents of these pairs, in one run."""
        name, _given = setting.sampler
        return _run(NODES[name], self.inputs(setting, pairs))["samples"].cpu()

    def inputs(self, setting: Setting, pairs: range) -> dict[str, Any]:
        """The inputs of the setting's sampler node, MODEL patched."""
        inputs = {
            "model": self.model,
            "seed": SEED,
            "steps": setting.steps,
            **{name: loader.RECOMMENDED[name] for name in ("cfg", "sampler_name", "scheduler")},
            "positive": [[torch.cat([self._encode(self.prompt(pair)) for pair in pairs]), {}]],
            "negative": [[self._encode(""), {}]],
            "latent_image": {**self._empty_latent(len(pairs)), "batch_index": [self.first + pair for pair in pairs]},
        }
        for name, given in setting.patches:
            inputs = _candidates.node(NODES[name], **given).prepare(inputs)
        return {**inputs, **setting.sampler[1]}

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(n, h, w, 3) in 0..1."""
        return core_nodes.VAEDecode().decode(self.vae, {"samples": latents.float()})[0].cpu()

    def _encode(self, prompt: str) -> torch.Tensor:
        if prompt not in self._encoded:
            self._encoded[prompt] = core_nodes.CLIPTextEncode().encode(self._clip, prompt)[0][0][0]
        return self._encoded[prompt]

    def _empty_latent(self, batch: int) -> dict[str, Any]:
        width, height = loader.RECOMMENDED["width"], loader.RECOMMENDED["height"]
        return core_nodes.EmptyLatentImage().generate(width, height, batch)[0]


def _run(node_class: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The LATENT of a sampler node, its other inputs at their defaults."""
    arguments = {**_candidates.defaults(node_class), **inputs}
    if issubclass(node_class, io.ComfyNode):
        return node_class.execute(**arguments).args[0]
    return getattr(node_class(), node_class.FUNCTION)(**arguments)[0]


class Shards:
    """A setting's tensors as files `first-last`, each complete or absent, from pair 0 on without a gap."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.folder = folder / setting.key
        self._setting = setting

    @cached_property
    def _about(self) -> dict[str, Any]:
        return {"name": self._setting.name, **self._setting.document()}

    def ranges(self) -> list[range]:
        named = sorted(tuple(map(int, file.stem.split("-"))) for file in self.folder.glob("*-*.safetensors"))
        found: list[range] = []
        for first, last in named:
            if first == (found[-1].stop if found else 0):
                found.append(range(first, last))
        return found

    @property
    def done(self) -> int:
        """How many pairs are there."""
        ranges = self.ranges()
        return ranges[-1].stop if ranges else 0

    def write(self, pairs: range, tensors: dict[str, torch.Tensor]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "setting.json").write_text(json.dumps(self._about, indent=1) + "\n", encoding="utf-8")
        file = self._file(pairs)
        part = file.with_suffix(".part")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
        part.replace(file)

    def read(self, pairs: range) -> dict[str, torch.Tensor]:
        with safe_open(self._file(pairs), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)

    def discard(self) -> None:
        for pairs in self.ranges():
            self._file(pairs).unlink()

    def _file(self, pairs: range) -> Path:
        return self.folder / f"{pairs.start:05}-{pairs.stop:05}.safetensors"


class Runs:
    """Draws what is missing of a setting's pictures; kept by weights, pairs and what the setting's nodes are told.

    `folder` holds them in `pictures`, and beside that the scores made from them.
    """

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject = subject
        self.folder = folder / subject.key
        self._checked: set[str] = set()

    def shards(self, setting: Setting) -> Shards:
        return Shards(self.folder / "pictures", setting)

    def missing(self, setting: Setting, pairs: int) -> list[range]:
        """The runs still to be done for the first `pairs` pairs; first sees to it that what is there is still true."""
        shards = self.shards(setting)
        if setting.key not in self._checked and shards.done and not self._still_true(setting, shards):
            for folder in self.folder.iterdir():
                Shards(folder, setting).discard()
        self._checked.add(setting.key)
        return [range(first, min(first + RUN_PAIRS, pairs)) for first in range(shards.done, pairs, RUN_PAIRS)]

    def draw(self, setting: Setting, pairs: range) -> None:
        """Latents and, per picture, the multiply-accumulates executed (counted once where all take the same)."""
        shards, latents, work = self.shards(setting), [], []
        for some in [range(pair, pair + 1) for pair in pairs] if setting.one_at_a_time else [pairs]:
            if setting.one_at_a_time or not pairs.start:
                drawn, macs = count(lambda some=some: self.subject.draw(setting, some))
                work += [macs // len(some)] * len(some)
            else:
                drawn = self.subject.draw(setting, some)
            latents.append(drawn)
        if not work:
            work = [int(shards.read(shards.ranges()[0])["macs"][0])] * len(pairs)
        shards.write(pairs, {"latents": torch.cat(latents).half(), "macs": torch.tensor(work)})

    def _still_true(self, setting: Setting, shards: Shards) -> bool:
        """Whether the pack still draws the first picture as it did."""
        before = shards.read(shards.ranges()[0])["latents"][:1].float()
        return float((self.subject.draw(setting, range(1)) - before).square().mean().sqrt()) < SAME
