"""Multiply-accumulates of a plan on a model: the FLOPs columns of the paper's Table 2, for any U-Net or PixArt.

Evaluations are traced on the meta device, through a weightless skeleton built from the loaded model's configuration:
nothing is computed, no weight is read. Work is exactly proportional to the rows, affine in the prompt's length and
additive over the layers, so traces of two lengths at a latent size price every kind of step and every prompt.

Counted: convolutions, linear layers and the two matrix products of each attention. Not counted: normalisation,
activations, samplers, text encoders, VAE, and what other nodes add (ControlNet, LoRA, IPAdapter, token merging).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import CrossAttention, wrap_attn
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.pixart.blocks import AttentionKVCompress, MultiHeadCrossAttention
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.model_base import BaseModel

from .architecture import Size, whole_module
from .schedule import Plan, Step

Countable = UNetModel | PixArtMS

ATTENTION_LAYERS = (CrossAttention, MultiHeadCrossAttention, AttentionKVCompress)
CROSS_ATTENTION_NAMES = {"attn2", "cross_attn"}  # UNetModel's and PixArtMS's
REMEMBERED_TRACES = 128


class UncountableModel(Exception):
    """The work of this model cannot be counted; the message names its class and the reason."""


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates. The paper's Table 2 counts `linear` only."""

    linear: int = 0  # convolutions and linear layers
    attention: int = 0  # the products query x key and weights x value

    @property
    def total(self) -> int:
        return self.linear + self.attention

    def __add__(self, other: Work) -> Work:
        return Work(self.linear + other.linear, self.attention + other.attention)

    def __mul__(self, times: int) -> Work:
        return Work(self.linear * times, self.attention * times)


class RowCount(NamedTuple):
    """The rows of a batch that a picture takes in a step of the run, and would take in the stock run's."""

    run: int
    stock: int


@dataclass(frozen=True)
class PlanWork:
    """The work of each step of a run, one evaluation a step, and of the same run without PostDiff."""

    steps: tuple[Work, ...]
    stock: Work

    @property
    def total(self) -> Work:
        return add(self.steps)

    @property
    def work_saved(self) -> float:
        """The fraction of the stock run's work that is left out, attention products included."""
        return 1 - self.total.total / self.stock.total

    @property
    def speedup(self) -> float:
        """How much faster the run would be if time were proportional to work, attention products included."""
        return self.stock.total / self.total.total


def add(works: Iterable[Work]) -> Work:
    return sum(works, start=Work())


def step_work(
    model: BaseModel,
    height: int,
    width: int,
    rows: int,
    tokens: int,
    *,
    depth: int | None = None,
    cross_attn: bool = True,
) -> Work:
    """The work of one model evaluation (section 2.5).

    `height` and `width` are the latent's sides, `rows` the batch rows that the model sees (two a picture under
    guidance), `tokens` the prompt's length. With `depth`, a deep-cache reuse step: only the first `depth` input blocks
    and the last `depth` output blocks run. Without `cross_attn`, every cross-attention layer returns a stored output.

    Raises UncountableModel for a model that is neither an image U-Net nor a PixArt, and ValueError for a depth that the
    model does not have.
    """
    traced = _trace(_class_to_count(model), _configuration(model), height, width)
    work_of_a_row = {place: each.first + each.further * (tokens - 1) for place, each in traced.items()}
    if depth is not None:
        work_of_a_row = _without_deep_branch(work_of_a_row, depth)
    return add(work for place, work in work_of_a_row.items() if cross_attn or not place.in_cross_attention) * rows


def plan_work(
    model: BaseModel,
    plan: Plan,
    size: Size,
    low_size: Size | None = None,
    *,
    tokens: int,
    batch: int = 1,
    rows: Sequence[RowCount] | None = None,
    depth: int | None = None,
) -> PlanWork:
    """The work of a run that follows `plan`, and of its stock counterpart.

    `size` and `low_size` are latent (height, width), `rows` those of each step (by default `planned_rows`), `depth` is
    the deep cache's. Raises as `step_work` does, and ValueError where the plan needs a `low_size` or `depth` that is
    missing.
    """
    if low_size is None and plan.low_res_steps:
        raise ValueError(f"The plan has {plan.low_res_steps} low-resolution steps: give their low_size.")
    if depth is None and any(step.deep == "reuse" for step in plan.steps):
        raise ValueError("The plan reuses deep features: give the deep cache's depth.")

    rows = planned_rows(plan) if rows is None else rows

    def work(step: Step, rows: int) -> Work:
        height, width = low_size if low_size and step.low_res else size
        return step_work(
            model,
            height,
            width,
            batch * rows,
            tokens,
            depth=depth if step.deep == "reuse" else None,
            cross_attn=step.cross_attn != "reuse",
        )

    steps = tuple(work(step, each.run) for step, each in zip(plan.steps, rows, strict=True))
    return PlanWork(steps, add(step_work(model, *size, batch * each.stock, tokens) for each in rows))


def planned_rows(plan: Plan, rows_when_guided: int = 2) -> list[RowCount]:
    """The rows of each step: two with a positive and a negative prompt, one where there is no negative one (cfg 1)."""
    return [RowCount(rows_when_guided if step.guided else 1, rows_when_guided) for step in plan.steps]


class _Place(NamedTuple):
    """Where in the model work is done; block 3 of a U-Net's input is group `input_blocks`, index 3."""

    group: str
    index: int
    in_cross_attention: bool


def _place(path: str) -> _Place:
    names = path.split(".")
    index = int(names[1]) if len(names) > 1 and names[1].isdigit() else 0
    return _Place(names[0], index, not CROSS_ATTENTION_NAMES.isdisjoint(names))


def _without_deep_branch(work: Mapping[_Place, Work], depth: int) -> dict[_Place, Work]:
    """What is left of the work in a deep-cache reuse step."""
    blocks = len({place.index for place in work if place.group == "output_blocks"})
    if not blocks:
        raise ValueError("A transformer has no skip connections: a deep cache cannot act on it.")
    if not 1 <= depth < blocks:
        raise ValueError(f"depth is {depth}; with this model's {blocks} blocks it must lie between 1 and {blocks - 1}.")

    def runs(place: _Place) -> bool:
        if place.group == "input_blocks":
            return place.index < depth
        if place.group == "output_blocks":
            return place.index >= blocks - depth
        return place.group != "middle_block"

    return {place: share for place, share in work.items() if runs(place)}


def _class_to_count(model: BaseModel) -> type[Countable]:
    diffusion_model = whole_module(model.diffusion_model)
    name = type(diffusion_model).__name__
    if not isinstance(diffusion_model, Countable):
        raise UncountableModel(f"{name} is neither a UNetModel nor a PixArtMS: its work is not counted.")
    if isinstance(diffusion_model, UNetModel) and diffusion_model.use_temporal_resblocks:
        raise UncountableModel(f"This {name} is a video model (temporal layers): its work is not counted.")
    return type(diffusion_model)


def _configuration(model: BaseModel) -> str:
    """The arguments that the loaded model was built with, as JSON: a key that holds no tensors.

    Number formats are left out: they change no count.
    """
    arguments = model.model_config.unet_config
    counted = {name: value for name, value in arguments.items() if not isinstance(value, torch.dtype)}
    try:
        return json.dumps(counted, sort_keys=True)
    except TypeError as error:
        name = type(whole_module(model.diffusion_model)).__name__
        raise UncountableModel(f"The configuration of this {name} is not plain data ({error}).") from error


class _Traced(NamedTuple):
    """The work at one place for a prompt of one token, and for each further one."""

    first: Work
    further: Work


@lru_cache(maxsize=REMEMBERED_TRACES)
def _trace(model_class: type[Countable], configuration: str, height: int, width: int) -> Mapping[_Place, _Traced]:
    """The work of one evaluation of one row, by place."""
    arguments = json.loads(configuration) | {"dtype": torch.float32, "device": "meta", "operations": _Layers}
    work: defaultdict[_Place, Work] = defaultdict(Work)
    counted = []
    try:
        # The constructor of PixArt draws random numbers, which the host's generator must not notice.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            skeleton = model_class(**arguments).eval()
            _count_into(work, skeleton)
            for tokens in (1, 2):
                skeleton(**_inputs(skeleton, arguments, height, width, tokens))
                counted.append(dict(work))
                work.clear()
    except Exception as error:
        raise UncountableModel(
            f"The work of this {model_class.__name__} at a latent of {height} x {width} is not counted: "
            f"tracing it failed with {type(error).__name__}: {error}"
        ) from error
    one, two = counted
    return {place: _Traced(each, two[place] + each * -1) for place, each in one.items()}


class _Linear(torch.nn.Module):
    """A linear layer as far as shapes go."""

    def __init__(self, in_features: int, out_features: int, *_: Any, **__: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(*x.shape[:-1], self.out_features)


class _Layers:
    """What the skeleton is built from. The host's own layers may have no weights, thus no shapes, until loaded."""

    Linear = _Linear
    Conv2d = torch.nn.Conv2d
    GroupNorm = LayerNorm = torch.nn.Identity  # not counted

    @staticmethod
    def conv_nd(dims: int, *arguments: Any, **options: Any) -> torch.nn.Module:
        if dims != 2:
            raise ValueError(f"only images are counted, not {dims}-dimensional convolutions")
        return _Layers.Conv2d(*arguments, **options)


def _inputs(
    skeleton: Countable, arguments: Mapping[str, Any], height: int, width: int, tokens: int
) -> dict[str, torch.Tensor]:
    """One row of what the sampler gives the model: latent, timestep, prompt, and a pooled prompt or label where due."""

    def meta(*shape: int, **options: Any) -> torch.Tensor:
        return torch.empty(shape, device="meta", **options)

    inputs = {"x": meta(1, skeleton.in_channels, height, width), "timesteps": meta(1)}
    if isinstance(skeleton, PixArtMS):
        return inputs | {"context": meta(1, tokens, skeleton.y_embedder.y_proj.fc1.in_features)}
    if skeleton.num_classes == "sequential":
        inputs["y"] = meta(1, arguments["adm_in_channels"])
    elif skeleton.num_classes is not None:
        inputs["y"] = meta(1, dtype=torch.long)
    return inputs | {"context": meta(1, tokens, arguments["context_dim"])}


def _count_into(work: defaultdict[_Place, Work], skeleton: Countable) -> None:
    """Make every layer of the skeleton add what it does to `work` when it runs."""
    for path, module in skeleton.named_modules():
        if isinstance(module, _Linear):
            module.register_forward_hook(_layer_counter(work, _place(path), module.in_features))
        elif isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(_layer_counter(work, _place(path), module.weight[0].numel()))
        elif isinstance(module, ATTENTION_LAYERS):
            forward = _with_attention(type(module).forward, _attention_counter(work, _place(path)))
            module.forward = forward.__get__(module)


def _layer_counter(work: defaultdict[_Place, Work], place: _Place, inputs_per_output: int) -> Callable[..., None]:
    def count(_layer: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        work[place] += Work(linear=output.numel() * inputs_per_output)

    return count


def _attention_counter(work: defaultdict[_Place, Work], place: _Place) -> Callable[..., torch.Tensor]:
    @wrap_attn  # takes the tensors out of the containers in which newer hosts hand them over
    def count(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *_: Any, **__: Any) -> torch.Tensor:
        # (rows, tokens, heads * channels) or (rows, heads, tokens, channels): tokens are the last dimension but one.
        queries, keys = q.shape[-2], k.shape[-2]
        work[place] += Work(attention=2 * q.numel() * keys)
        return q.new_empty(q.shape[0], queries, q[0].numel() // queries)

    return count


def _with_attention(forward: FunctionType, attention: Callable[..., torch.Tensor]) -> FunctionType:
    """The host's `forward`, calling `attention` in place of the function that the host chose for this machine.

    That one may split its products by free memory or not know the meta device, and PixArt has no override for it.
    """
    if "optimized_attention" not in forward.__code__.co_names:
        raise RuntimeError(f"{forward.__qualname__} was replaced by another custom node")
    names = {"optimized_attention": attention, "optimized_attention_masked": attention}
    return FunctionType(
        forward.__code__, forward.__globals__ | names, forward.__name__, forward.__defaults__, forward.__closure__
    )
