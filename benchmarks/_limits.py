"""What a run could reach at best: stock steps and plainly truncated forwards, without any of the pack's machinery."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import comfy.sample
import torch
from _measure import Clock
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.pixart.pixartms import PixArtMSBlock

from postdiff.postdiff_core.architecture import latent_geometry

STEPS_TIMED = {"cpu": 1, "cuda": 20}  # a round, after one that is not counted
SMALLEST = 8  # latent side: what a step takes there, it takes however few its pixels


class Kind(NamedTuple):
    """What decides the cost of a step; `depth` is the deep cache's where it reuses, else None."""

    size: tuple[int, int]
    guided: bool
    depth: int | None
    cross_attn: bool

    @property
    def name(self) -> str:
        parts = [f"latent {self.size[0]}x{self.size[1]}", "guided" if self.guided else "unguided"]
        parts += [f"first and last {self.depth} blocks only"] if self.depth else []
        return ", ".join(parts + ["no cross-attention"] * (not self.cross_attn))


class Limits:
    """Times the kinds of steps that runs are made of, on the same model in the same process."""

    def __init__(self, inputs: dict[str, Any], clock: Clock, *, depth: int | None) -> None:
        self._inputs, self._clock, self._depth = inputs, clock, depth
        self._guided = inputs["cfg"] > 1.0
        self._steps: dict[Kind, list[float]] = {}
        self._beyond: list[float] = []
        self._features: dict[Kind, torch.Tensor] = {}

    def time_steps_of(self, reports: Iterable[dict[str, Any]]) -> None:
        """Time every kind of step in these runs once more, and the stock step."""
        kinds = {self._stock: None} | {kind: None for report in reports for kind in self.kinds_of(report)}
        for kind in dict.fromkeys([*kinds, *map(self._smallest, kinds)]):
            step, beyond = self._time(kind)
            self._steps.setdefault(kind, []).append(step)
            if kind == self._stock:
                self._beyond.append(beyond)

    def speedup_of(self, report: dict[str, Any]) -> float:
        """What a run of this plan could reach against the stock run, what both take beyond their steps included."""
        kinds, beyond = self.kinds_of(report), max(0.0, statistics.median(self._beyond))
        return (beyond + len(kinds) * self._median(self._stock)) / (beyond + sum(map(self._median, kinds)))

    def document(self) -> list[dict[str, Any]]:
        """Each kind of step: its seconds, and those of its like on the smallest latent."""
        return [
            {"name": kind.name, "seconds": self._median(kind), "on_smallest": self._median(self._smallest(kind))}
            for kind in self._steps
            if kind != self._smallest(kind)
        ]

    @property
    def _stock(self) -> Kind:
        return Kind(tuple(self._inputs["latent_image"]["samples"].shape[-2:]), self._guided, None, True)

    def _smallest(self, kind: Kind) -> Kind:
        geometry = latent_geometry(self._inputs["model"].model.diffusion_model)
        side = max(SMALLEST, geometry.smallest_mean + 1 if geometry else 0)  # PixArt takes even sides from 34 on
        return kind._replace(size=(side, side))

    def _median(self, kind: Kind) -> float:
        return statistics.median(self._steps[kind])

    def kinds_of(self, report: dict[str, Any]) -> list[Kind]:
        """The kind of each step of the run."""
        return [
            Kind(
                tuple(report["low_size" if step["stage"] == "low" else "size"]),
                self._guided and step["cfg"] == "on",
                self._depth if step["deep"] == "reuse" else None,
                step["xattn"] != "reuse",
            )
            for step in report["plan"]
        ]

    def _time(self, kind: Kind) -> tuple[float, float]:
        """Seconds of one such step, and what a run takes beyond its steps."""
        timed = STEPS_TIMED[self._clock.device]
        marks: list[float] = []

        def mark(step: int, *_: Any) -> None:
            if step in (0, timed):  # reading the clock waits for the device, which a run does not
                marks.append(self._clock())

        start = self._clock()
        self.run(kind, timed + 1, mark)
        total = self._clock() - start
        step = (marks[1] - marks[0]) / timed
        return step, total - step * (timed + 1)

    def run(self, kind: Kind, steps: int, callback: Callable[..., None] | None = None) -> None:
        """A stock run of such steps, on a model without what they leave out."""
        latent = self._inputs["latent_image"]["samples"]
        inputs: dict[str, Any] = {
            **self._inputs,
            "cfg": self._inputs["cfg"] if kind.guided else 1.0,
            "latent_image": {"samples": latent.new_zeros(*latent.shape[:2], *kind.size)},
        }
        model = inputs["model"].model.diffusion_model
        with contextlib.ExitStack() as stack:
            if kind.depth is not None:
                feature = self._feature(inputs, kind, kind.depth)
                stack.enter_context(_without_deep_branch(model, kind.depth, feature))
            if not kind.cross_attn:
                stack.enter_context(_without_cross_attention(model))
            _sample(inputs, steps, callback=callback)

    def _feature(self, inputs: dict[str, Any], kind: Kind, depth: int) -> torch.Tensor:
        key = kind._replace(cross_attn=True)
        if key not in self._features:
            self._features[key] = _deep_feature(inputs, depth)
        return self._features[key]


def _sample(inputs: dict[str, Any], steps: int, *, callback: Any = None) -> torch.Tensor:
    """What nodes.common_ksampler does, with a callback of our own."""
    latent = inputs["latent_image"]["samples"]
    noise = comfy.sample.prepare_noise(latent, inputs["seed"])
    return comfy.sample.sample(
        *(inputs["model"], noise, steps, inputs["cfg"], inputs["sampler_name"], inputs["scheduler"]),
        *(inputs["positive"], inputs["negative"], latent),
        callback=callback,
        disable_pbar=True,
        seed=inputs["seed"],
    )


class _Stored(torch.nn.Module):
    """A layer that returns one tensor: the one given, or zeros of its first input's shape."""

    def __init__(self, tensor: torch.Tensor | None = None) -> None:
        super().__init__()
        self._tensor = tensor

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if self._tensor is None:
            self._tensor = torch.zeros_like(x)
        return self._tensor


def _deep_feature(inputs: dict[str, Any], depth: int) -> torch.Tensor:
    """What enters the first of the last `depth` output blocks."""
    blocks = inputs["model"].model.diffusion_model.output_blocks
    seen: list[torch.Tensor] = []
    hook = blocks[len(blocks) - depth - 1][-1].register_forward_hook(lambda _layer, _inputs, out: seen.append(out))
    try:
        _sample(inputs, 1)
    finally:
        hook.remove()
    return seen[0]


@contextlib.contextmanager
def _without_deep_branch(unet: Any, depth: int, feature: torch.Tensor) -> Iterator[None]:
    whole = unet.input_blocks, unet.middle_block, unet.output_blocks
    unet.input_blocks = whole[0][:depth]
    unet.middle_block = torch.nn.Sequential(_Stored(feature))
    unet.output_blocks = whole[2][-depth:]
    try:
        yield
    finally:
        unet.input_blocks, unet.middle_block, unet.output_blocks = whole


@contextlib.contextmanager
def _without_cross_attention(model: torch.nn.Module) -> Iterator[None]:
    whole = [
        (block, name, getattr(block, name)) for block in model.modules() for name in _cross_attention_layers(block)
    ]
    try:
        for block, name, _ in whole:
            setattr(block, name, torch.nn.Identity() if name == "norm2" else _Stored())
        yield
    finally:
        for block, name, layer in whole:
            setattr(block, name, layer)


def _cross_attention_layers(block: torch.nn.Module) -> tuple[str, ...]:
    if isinstance(block, BasicTransformerBlock):
        return "norm2", "attn2"
    return ("cross_attn",) if isinstance(block, PixArtMSBlock) else ()
