"""Graphs drawn at random from the rows of composition.py, and what must hold of every one of them.

A graph is plain data, so that one that fails can be printed and run again.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import hypothesis.strategies as st
import torch

import companions
import traces
from companions import Inputs
from composition import REFUSALS, ROWS, SAMPLERS, TECHNIQUES, UNET, Row
from postdiff.postdiff_core.patch import carried_by
from postdiff.postdiff_core.schedule import MODES, UPSCALE_METHODS
from reference import Techniques

SLOW = {"TorchCompileModel, backend eager"}
BASES = [row.name for row in ROWS.values() if row.group != SAMPLERS and row.name not in SLOW]
SECONDS = [name for name in BASES if ROWS[name].model is UNET and ROWS[name].companion is not companions.nothing]
# At a scale of 0.25 it is still 2 x 2 where the small U-Net is deepest: torch normalises no single value.
MIN_SIDE = 12
SMALLEST = {"PixArt-alpha": 66, "PixArt-sigma": 66, "tiles, a run each": 24}  # the last tiles are a quarter of that


class NotRunnable(Exception):
    """A graph that fails in the host without PostDiff too."""


@dataclass(frozen=True)
class Graph:
    """A row of the matrix, perhaps the companion of another on top, sampled with these settings and techniques.

    `sides` are the latent's above the smallest that the row takes.
    """

    row: str
    second: str | None
    patched_first: bool
    sides: tuple[int, int]
    batch: int
    sampling: dict[str, Any]
    techniques: dict[str, Any]

    @classmethod
    def from_json(cls, text: str) -> Graph:
        return cls(**json.loads(text))

    def command(self) -> str:
        """What runs this graph again."""
        document = json.dumps(dataclasses.asdict(self))
        return f"python dev.py test tests/host/test_properties.py --graph {shlex.quote(document)}"

    @property
    def smallest(self) -> int:
        return SMALLEST.get(self.row, MIN_SIDE)

    def at(self, size: tuple[int, int]) -> Graph:
        """The graph with a latent of (height, width)."""
        return dataclasses.replace(self, sides=tuple(side - self.smallest for side in size))

    @property
    def sampled_row(self) -> Row:
        """The row with this graph's size and sampling; what the row itself is about stays."""
        row = ROWS[self.row]
        height, width = (self.smallest + side for side in self.sides)
        latent = {"batch": self.batch, **row.latent, "height": height, "width": width}
        return dataclasses.replace(row, latent=latent, given={**self.sampling, **row.given})

    def inputs(self, techniques: Techniques | None) -> Inputs:
        """A KSampler's inputs on a fresh model; patched before or after the companions."""
        row = self.sampled_row
        inputs = row.without() | dict(row.given)
        steps = [row.companion] + ([ROWS[self.second].companion] if self.second else [])
        if techniques is not None:
            steps.insert(0 if self.patched_first else len(steps), lambda inputs: _patched(inputs, techniques))
        for step in steps:
            inputs = step(inputs)
        return inputs

    def sample(self, inputs: Inputs) -> list[torch.Tensor]:
        torch.manual_seed(0)  # some nodes draw from the global generator
        return self.sampled_row.sample(inputs)


def graphs() -> st.SearchStrategy[Graph]:
    fractions = st.integers(0, 20).map(lambda twentieth: twentieth / 20)
    return st.builds(
        Graph,
        row=st.sampled_from(BASES),
        second=st.none() | st.sampled_from(SECONDS),
        patched_first=st.booleans(),
        sides=st.tuples(st.integers(0, 8), st.integers(0, 8)),
        batch=st.integers(1, 2),
        sampling=st.fixed_dictionaries(
            {
                "seed": st.integers(0, 2**32),
                "steps": st.integers(1, 5),
                "cfg": st.sampled_from([1.0, 3.0, 7.5]),
                "sampler_name": st.sampled_from(comfy.samplers.SAMPLER_NAMES),
                "scheduler": st.sampled_from(comfy.samplers.SCHEDULER_NAMES),
                "denoise": st.sampled_from([1.0, 0.6]),
            }
        ),
        techniques=st.fixed_dictionaries(
            {
                "low_res_scale": st.sampled_from([0.25, 0.5, 0.7, 1.0]),
                "low_res_until": fractions,
                "switch": st.sampled_from(["paper", "matched"]),
                "upscale_method": st.sampled_from(UPSCALE_METHODS),
                "interval": st.integers(1, 4),
                "depth": st.integers(1, 3),
                "deep_start": st.sampled_from([0.0, 0.3]),
                "deep_end": st.sampled_from([0.6, 1.0]),
                "cross_attn_start": fractions,
                "mode": st.sampled_from(MODES),
                "cutoff_start": fractions,
            }
        ),
    )


def check(graph: Graph) -> None:
    """Raise AssertionError if one of the invariants does not hold, NotRunnable if the host cannot run the graph."""
    stock = _stock(graph)
    neutral = graph.sample(graph.inputs(Techniques()))
    assert _same(stock, neutral), "neutral settings give another latent than none"
    ran = _run_twice(graph, Techniques(**graph.techniques))
    assert [latent.shape for latent in ran.first] == [latent.shape for latent in stock], "the latent has another shape"
    if not _finite(ran.first):
        if ran.low_size:
            _stock(graph.at(ran.low_size))  # FreeU_V2 divides by 0 where a feature is a single pixel
        raise AssertionError("the latent is not finite")
    repeats = _same(ran.first, ran.second)
    if ran.changed or ran.left or not repeats:  # as nodes of the host do that keep something from one run to the next
        usual = _run_twice(graph, None)
        assert repeats or not _same(usual.first, usual.second), "the same seed gives another latent"
        assert ran.changed <= usual.changed, "the run changed the model"
        assert len(ran.left) <= len(usual.left), "the run left tensors in memory"


@dataclass(frozen=True)
class _Ran:
    """Two runs of one graph: the latents, what the second changed about the model, and tensors that it left.

    `low_size` is the (height, width) of a low-resolution stage.
    """

    first: list[torch.Tensor]
    second: list[torch.Tensor]
    changed: set[str]
    left: list[torch.Size]
    low_size: tuple[int, int] | None


def _run_twice(graph: Graph, techniques: Techniques | None) -> _Ran:
    inputs = graph.inputs(techniques)
    first = graph.sample(inputs)
    before = traces.state(inputs["model"])
    gc.collect()
    gc.freeze()  # live_tensors leaves out all that there is so far
    try:
        second = graph.sample(inputs)
        returned = set(map(id, second))
        left = [tensor.shape for key, tensor in traces.live_tensors().items() if key not in returned]
    finally:
        gc.unfreeze()
    report = carried_by(inputs["model"]).last_report or {}
    changed = set(traces.differences(before, traces.state(inputs["model"])))
    return _Ran(first, second, changed, left, report.get("low_size"))


def _stock(graph: Graph) -> list[torch.Tensor]:
    try:
        latents = graph.sample(graph.inputs(None))
    except Exception as error:
        raise NotRunnable(f"{type(error).__name__}: {error}") from error
    if not _finite(latents):
        raise NotRunnable("the stock latent is not finite")
    return latents


def _finite(latents: list[torch.Tensor]) -> bool:
    return all(torch.isfinite(latent).all() for latent in latents)


def _patched(inputs: Inputs, techniques: Techniques) -> Inputs:
    """With all four patches, neutral ones too; those that say that they cannot act on the model are left out."""
    model = inputs["model"]
    for name, patch in TECHNIQUES.items():
        try:
            model = patch(model, techniques)
        except ValueError as error:
            assert re.match(REFUSALS[name], str(error)), error
    return inputs | {"model": model}


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))
