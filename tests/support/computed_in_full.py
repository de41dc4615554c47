"""The techniques as substitutions in runs of the stock host, for any graph of its nodes.

Nothing is left out here: every layer of every step is computed, and what a technique reuses is then put in the place of
what was computed. The latent must be the pack's, and the work of all that was not replaced must be what the pack
executes. What each step does is read from the pack's report; how it is done is written once more, with nothing of the
pack in it.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest import mock

import comfy.samplers
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.pixart.pixartms import PixArtMSBlock
from comfy.model_patcher import ModelPatcher

import stock_mixed_resolution as by_hand
from reference import Techniques, resized_tokens

Grid = tuple[int, int]
Chunk = tuple[Hashable, ...]  # what tells one prompt's rows from the others of an evaluation
Layer = torch.nn.Module

# The names of the layers that give queries and keys: the U-Net's attention, PixArt's self- and cross-attention.
QUERIES_AND_KEYS = (("to_q", "to_k"), ("qkv", "qkv"), ("q_linear", "kv_linear"))


@dataclass
class Call:
    """One call of the diffusion model. Layers in `left_out` add nothing to its work."""

    sigma: float
    latent: Grid
    uuids: list[Hashable]
    counted: float = 1.0  # the fraction of its rows that count
    left_out: set[Layer] = field(default_factory=set)
    layers: Counter[Layer] = field(default_factory=Counter)

    @property
    def work(self) -> int:
        return round(self.counted * sum(work for layer, work in self.layers.items() if layer not in self.left_out))


class Work:
    """Multiply-accumulates of a network's convolutions, linear layers and attention products, call by call."""

    def __init__(self, network: Layer) -> None:
        self.network = network
        self.calls: list[Call] = []
        self._queries: dict[Layer, torch.Tensor] = {}

    def in_order(self) -> list[int]:
        """The work at each noise level that the model was called at, in the order of the calls."""
        work: list[int] = []
        for before, call in zip([None, *self.calls], self.calls, strict=False):
            if before is None or before.sigma != call.sigma:
                work.append(0)
            work[-1] += call.work
        return work

    @contextlib.contextmanager
    def counted(self) -> Iterator[Work]:
        """Count what the network does in here."""
        hooks = [self.network.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for layer in self.network.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                hooks.append(layer.register_forward_hook(self._count))
            for queries, keys in QUERIES_AND_KEYS:
                if hasattr(layer, queries) and hasattr(layer, keys):
                    hooks += self._count_products(getattr(layer, queries), getattr(layer, keys))
        with removed_afterwards(hooks):
            yield self

    def _begin(self, _network: Layer, inputs: tuple, options: dict) -> None:
        given = options["transformer_options"]
        x = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]  # a nested latent comes in its parts
        self.calls.append(Call(given["sigmas"][0].item(), tuple(x.shape[-2:]), list(given["uuids"])))

    def _count(self, layer: Any, _inputs: Any, output: torch.Tensor) -> None:
        self._add(layer, output.numel() * layer.weight[0].numel())

    def _count_products(self, to_queries: Layer, to_keys: Layer) -> list[Any]:
        """Query x key and weights x value."""

        def remember(_layer: Layer, _inputs: Any, output: torch.Tensor) -> None:
            self._queries[to_keys] = output.chunk(3, dim=-1)[0] if to_queries is to_keys else output

        def count(layer: Layer, _inputs: Any, output: torch.Tensor) -> None:
            queries = self._queries.pop(to_keys)
            keys = output.shape[0] * output.shape[1] // queries.shape[0]
            self._add(layer, 2 * queries.numel() * keys)

        return [to_queries.register_forward_hook(remember), to_keys.register_forward_hook(count)]

    def _add(self, layer: Layer, work: int) -> None:
        """Prompts may pass through layers of their own (LTX-2) before the first call: that is no part of a step."""
        if self.calls:
            self.calls[-1].layers[layer] += work


@contextlib.contextmanager
def removed_afterwards(hooks: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Kept(NamedTuple):
    """Rows of one prompt, and the latent they belong to."""

    rows: torch.Tensor
    latent: Grid

    def on(self, latent: Grid) -> torch.Tensor | None:
        """The rows as tokens on the grid of another latent; None if they lie on no grid of their own latent's."""
        if latent == self.latent:
            return self.rows
        grid, new = self.latent, latent
        while grid[0] * grid[1] > self.rows.shape[1]:
            grid, new = halved(grid), halved(new)
        return resized_tokens(self.rows, grid, new) if grid[0] * grid[1] == self.rows.shape[1] else None


def halved(grid: Grid) -> Grid:
    return -(-grid[0] // 2), -(-grid[1] // 2)


class InFull:
    """Runs of stock nodes on one diffusion model in which everything is computed and what is reused is substituted."""

    def __init__(
        self,
        network: Layer,
        techniques: Techniques,
        reports: Sequence[dict[str, Any]],
        batch_index: list[int] | None = None,
        fresh_model: Callable[[], ModelPatcher] | None = None,
    ) -> None:
        """`fresh_model` makes the model of the second stage, whose patches have seen nothing of the first."""
        self.techniques = techniques
        self.work = Work(network)
        self._reports = iter(reports)
        self._batch_index = batch_index
        self._fresh_model = fresh_model
        self._cross_attention = cross_attention_outputs(network)
        has_deep_branch = techniques.interval > 1 and hasattr(network, "input_blocks")
        self._deep = DeepBranch(network, techniques.depth) if has_deep_branch else None

    @contextlib.contextmanager
    def substituting(self) -> Iterator[Work]:
        """Stock sampling in here gives what the techniques give; each run follows the next report's plan."""
        guider, samplers = comfy.samplers.CFGGuider, comfy.samplers
        with (
            self.work.counted(),  # first, so that a call is there before it is looked at
            removed_afterwards(self._hooks()),
            mock.patch.object(guider, "sample", self._sample(guider.sample)),
            mock.patch.object(guider, "outer_predict_noise", self._predict_noise(guider.outer_predict_noise)),
            mock.patch.object(samplers, "_calc_cond_batch_outer", self._evaluate(samplers._calc_cond_batch_outer)),
        ):
            yield self.work

    def _hooks(self) -> list[Any]:
        hooks = [self.work.network.register_forward_pre_hook(self._begin_call, with_kwargs=True)]
        for layer, inside in self._cross_attention.items():
            hooks.append(layer.register_forward_hook(self._substitute_tokens(inside)))
        if self._deep is not None:
            hooks.append(self._deep.entrance.register_forward_pre_hook(self._substitute_feature))
        return hooks

    # Runs and stages

    def _sample(self, stock: Callable) -> Callable:
        def sample(
            guider, noise, latent, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
        ):
            if len(sigmas) < 2:  # no step, and no report of it
                return stock(guider, noise, latent, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
            report = next(self._reports)
            self._plan, self._sigmas = report["plan"], sigmas.tolist()
            self._features: dict[Chunk, Kept] = {}
            self._tokens: dict[tuple[Layer, Chunk], Kept] = {}
            self._alone: tuple[Any, Any] = None, None  # a latent, and its prediction by the positive prompt
            self._refreshed = -1
            switch = sum(step["stage"] == "low" for step in self._plan)
            if not switch:
                self._stage = range(len(self._plan))
                return stock(guider, noise, latent, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)

            low = tuple(report["low_size"])
            prompts, before = guider.original_conds, guider.model_options
            model = by_hand.with_whole_schedule(guider.model_patcher, sigmas)
            guider.model_options = model.model_options

            def stage(name: str, *given: Any, seed: int) -> torch.Tensor:
                if name == "full" and self._fresh_model is not None:
                    guider.model_options = by_hand.with_whole_schedule(self._fresh_model(), sigmas).model_options
                self._stage = range(switch) if name == "low" else range(switch, len(self._plan))
                self._sigmas = [math.inf] * self._stage.start + given[3].tolist()
                guider.original_conds = prompts if name == "full" else on_smaller_latent(prompts, noise.shape, low)
                return stock(guider, *given, disable_pbar=True, seed=seed)

            try:
                return by_hand.two_stages(
                    model,
                    stage,
                    latent,
                    sampler,
                    sigmas,
                    None if denoise_mask is None else comfy.utils.reshape_mask(denoise_mask, latent.shape),
                    callback,
                    seed=seed,
                    low=low,
                    switch=switch,
                    upscale_method=self.techniques.upscale_method,
                    matched=self.techniques.switch == "matched",
                    batch_index=self._batch_index,
                )
            finally:
                guider.original_conds, guider.model_options = prompts, before

        return sample

    def _predict_noise(self, stock: Callable) -> Callable:
        def predict_noise(guider, x, timestep, *args, **options):
            sigma = timestep.flatten()[0].item()
            passed = sum(later >= sigma * (1 - 1e-4) for later in self._sigmas[1:])
            self._index = min(max(passed, self._stage.start), self._stage.stop - 1)
            self._step = self._plan[self._index]
            self._guider = guider
            self._seen: Counter = Counter()
            if self._step["deep"] == "off" or (self._step["deep"] == "refresh" and self._refreshed != self._index):
                self._features.clear()
                self._refreshed = self._index
            return stock(guider, x, timestep, *args, **options)

        return predict_noise

    # The cut-off

    def _evaluate(self, stock: Callable) -> Callable:
        """Both results of a guider's pair are the positive one's, also where it asks for them one after the other."""

        def evaluate(model, conds, x, timestep, model_options):
            self._cut: set[int] = set()
            roles = [self._role(cond) for cond in conds]
            both = "positive" in roles or self._alone[0] is x
            if self._step["cfg"] == "off" and "negative" in roles and both:
                self._cut = {roles.index("negative")}
            out = stock(model, conds, x, timestep, model_options)
            if "positive" in roles and len(out) == len(conds):  # smZNodes takes them for itself
                self._alone = x, out[roles.index("positive")]
            return [self._alone[1]] * len(conds) if self._cut else out

        return evaluate

    def _role(self, cond: list[dict] | None) -> str | None:
        prompts = self._guider.conds
        if not cond or prompts.keys() != {"positive", "negative"}:
            return None
        return next((role for role in prompts if self._same(cond, prompts[role])), None)

    @staticmethod
    def _same(cond: list[dict], prompt: list[dict]) -> bool:
        """Context windows make copies, and may take a part."""
        return {entry["uuid"] for entry in cond} <= {entry["uuid"] for entry in prompt}

    # Calls of the model

    def _begin_call(self, _network: Layer, inputs: tuple, options: dict) -> None:
        call = self.work.calls[-1]
        x = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
        self._batch = x.shape[0]
        window = _frames(options["transformer_options"])
        self._chunks: list[Chunk] = []
        prompts = options["transformer_options"]["cond_or_uncond"]
        for prompt in zip(prompts, call.uuids, strict=True):
            self._chunks.append((*prompt, self._seen[prompt, window], window))
            self._seen[prompt, window] += 1
        self._kept = [position for position, number in enumerate(prompts) if number not in self._cut]
        call.counted = len(self._kept) / len(prompts)
        features = [self._features.get(self._chunks[position]) for position in self._kept]
        self._reuses_feature = self._step["deep"] == "reuse" and all(
            kept is not None and kept.latent == call.latent for kept in features
        )
        if self._reuses_feature and self._deep is not None:
            call.left_out |= self._deep.layers

    def _substitute_feature(self, _layer: Layer, inputs: tuple) -> tuple | None:
        assert self._deep is not None
        x, width = inputs[0], self._deep.width
        if self._reuses_feature:
            x = x.clone()
            for position, rows in self._rows(x):
                feature = self._features[self._chunks[position]].rows
                if feature.shape[-2:] != rows.shape[-2:]:  # another node has changed its size within the model
                    feature = F.interpolate(feature, size=rows.shape[-2:], mode="bilinear")
                rows[:, :width] = feature
            return (x, *inputs[1:])
        following = self._index + 1
        reused_next = following in self._stage and self._plan[following]["deep"] == "reuse"
        # A feature for nobody is not kept, also where a sampler (heunpp2) then goes back by a step.
        if self._step["deep"] == "reuse" or (self._step["deep"] == "refresh" and reused_next):
            for position, rows in self._rows(x):
                self._features[self._chunks[position]] = Kept(rows[:, :width].clone(), self.work.calls[-1].latent)
        return None

    def _substitute_tokens(self, inside: set[Layer]) -> Callable:
        def substitute(layer: Layer, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
            call = self.work.calls[-1]
            is_skipped = self._reuses_feature and self._deep is not None and layer in self._deep.layers
            if is_skipped or self._step["xattn"] == "off":
                return None  # the deep cache skips this layer: it keeps what it had
            if output.shape[0] != self._batch:
                return None  # another node gives the layer more rows: it is computed in every step
            kept = {}
            if self._step["xattn"] == "reuse":
                for position, rows in self._rows(output):
                    before = self._tokens.get((layer, self._chunks[position]))
                    tokens = before and before.on(call.latent)
                    kept[position] = tokens if tokens is not None and tokens.shape == rows.shape else None
                if all(tokens is not None for tokens in kept.values()):
                    output = output.clone()
                    for position, rows in self._rows(output):
                        rows[:] = kept[position]
                        self._tokens[layer, self._chunks[position]] = Kept(kept[position], call.latent)
                    call.left_out |= inside
                    return output
            for position, rows in self._rows(output):
                if kept.get(position) is None:
                    self._tokens[layer, self._chunks[position]] = Kept(rows.clone(), call.latent)
            return None

        return substitute

    def _rows(self, tensor: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Views of the rows of each prompt that counts."""
        parts = tensor.chunk(len(self._chunks))
        return [(position, parts[position]) for position in self._kept]


def _frames(options: dict) -> tuple[int, ...] | None:
    """The frames of a context window, by the host's node or by AnimateDiff-Evolved."""
    if "context_window" in options:
        return tuple(options["context_window"].index_list)
    frames = options.get("ad_params", {}).get("sub_idxs")
    return None if frames is None else tuple(frames)


class DeepBranch:
    """The part of a U-Net that a deep cache skips, and where its feature enters what is left."""

    def __init__(self, unet: Any, depth: int) -> None:
        skipped = [*unet.input_blocks[depth:], unet.middle_block, *unet.output_blocks[:-depth]]
        self.layers = {layer for block in skipped for layer in block.modules()}
        self.entrance = unet.output_blocks[-depth][0]
        self.width = unet.output_blocks[-depth - 1][0].out_channels


def cross_attention_outputs(network: Layer) -> dict[Layer, set[Layer]]:
    """The modules that give the outputs of cross-attention, and all that is in it; none between frames of a video."""
    found: dict[Layer, set[Layer]] = {}
    for name, block in network.named_modules():
        if isinstance(block, BasicTransformerBlock) and "time_stack" not in name:
            found[block.attn2.to_out] = set(block.attn2.modules())
        elif isinstance(block, PixArtMSBlock):
            found[block.cross_attn] = set(block.cross_attn.modules())
    return found


def on_smaller_latent(prompts: dict[str, list[dict]], full: Sequence[int], low: Grid) -> dict[str, list[dict]]:
    """Prompts with absolute areas and GLIGEN boxes in the units of a smaller latent."""
    scales = (low[0] / full[-2], low[1] / full[-1])

    def scaled(box: Sequence[int]) -> tuple[int, ...]:
        """(height, width, y, x)"""
        return tuple(round(value * scale) for value, scale in zip(box, scales * 2, strict=True))

    def moved(entry: dict) -> dict:
        entry = dict(entry)
        if "area" in entry and entry["area"][0] != "percentage":
            entry["area"] = scaled(entry["area"])
        if "gligen" in entry:
            kind, network, boxes = entry["gligen"]
            entry["gligen"] = (kind, network, [(embedding, *scaled(box)) for embedding, *box in boxes])
        return entry

    return {role: [moved(entry) for entry in group] for role, group in prompts.items()}
