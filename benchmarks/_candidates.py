"""What a picture can be made cheaper with: PostDiff, ComfyUI's own nodes, nodes of other packs, and fewer steps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nodes
from _results import OURS
from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_tomesd import TomePatchModel

from postdiff.postdiff_core import patch
from postdiff.postdiff_core.presets import PRESETS
from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings


@dataclass(frozen=True)
class Candidate:
    """One way at one setting; `prepare` gives the KSampler's inputs with it from those without."""

    name: str
    setting: str
    prepare: Callable[[dict[str, Any]], dict[str, Any]]
    keeps_composition: bool = True
    """Whether the picture is meant to be the stock run's of the same seed."""


def node(node_class: type, **given: Any) -> Candidate:
    """A node with a MODEL in and out, its other inputs at their defaults unless given."""
    setting = ", ".join(f"{name} {value}" for name, value in given.items()) or "defaults"

    def prepare(inputs: dict[str, Any]) -> dict[str, Any]:
        arguments = {**defaults(node_class), **given, "model": inputs["model"]}
        run = node_class.execute if issubclass(node_class, io.ComfyNode) else getattr(node_class(), node_class.FUNCTION)
        output = run(**arguments)
        return {**inputs, "model": (output.args if isinstance(output, io.NodeOutput) else output)[0]}

    return Candidate(node_class.__name__, setting, prepare)


def postdiff(setting: str, settings: Settings) -> Candidate:
    def prepare(inputs: dict[str, Any]) -> dict[str, Any]:
        return {**inputs, "model": patch.fill(inputs["model"], settings)}

    return Candidate(OURS, setting, prepare, keeps_composition=settings.mixed_resolution is None)


def fewer_steps(share: float) -> Candidate:
    def prepare(inputs: dict[str, Any]) -> dict[str, Any]:
        return {**inputs, "steps": round(inputs["steps"] * share)}

    return Candidate("fewer steps", f"{share:.0%}", prepare)


def at_defaults(preset: str) -> list[Candidate]:
    """Every way once, as its node comes; PostDiff as its preset for the family."""
    halves = {"start_percent": 0.5} if preset != "lcm" else {}
    return [
        postdiff("preset", PRESETS[preset]),
        node(EasyCacheNode),
        node(LazyCacheNode),
        node(TomePatchModel),
        node(HyperTile),
        node(PatchModelAddDownscale),
        node(CFGOverride, **halves),  # its default drops guidance altogether
        fewer_steps(0.5),
    ]


def sweeps() -> list[Candidate]:
    """Every way at settings that cost from little under the stock run's work to a third of it."""

    def late(m: float) -> tuple[CrossAttnCache, CFGCutoff]:
        return CrossAttnCache(m), CFGCutoff(m)

    never = None, None
    ours = {
        "m 0.75": Settings(None, None, *late(0.75)),
        "m 0.5": Settings(None, None, *late(0.5)),
        "k 2": Settings(None, DeepCache(2, 2), *never),
        "k 2, m 0.75": Settings(None, DeepCache(2, 2), *late(0.75)),
        "k 2, m 0.5": Settings(None, DeepCache(2, 2), *late(0.5)),
        "k 3, m 0.5": Settings(None, DeepCache(3, 2), *late(0.5)),
        "k 5, m 0.25": Settings(None, DeepCache(5, 2), *late(0.25)),
        "k 2 from 0.25": Settings(None, DeepCache(2, 2, 0.25), *never),
        "k 3 from 0.25": Settings(None, DeepCache(3, 2, 0.25), *never),
        "k 3 from 0.25, depth 1": Settings(None, DeepCache(3, 1, 0.25), *never),
        "k 3 from 0.25, depth 1, m 0.75": Settings(None, DeepCache(3, 1, 0.25), *late(0.75)),
        "k 4 from 0.2, depth 1, m 0.85": Settings(None, DeepCache(4, 1, 0.2), *late(0.85)),
        "k 5 from 0.25, depth 1, m 0.75": Settings(None, DeepCache(5, 1, 0.25), *late(0.75)),
        "k 4 from 0.2, depth 1, m 0.6": Settings(None, DeepCache(4, 1, 0.2), *late(0.6)),
        "k 5 from 0.15, depth 1, m 0.5": Settings(None, DeepCache(5, 1, 0.15), *late(0.5)),
        "beta 0.75, s 0.5, m 0.75": Settings(MixedResolution(0.75, 0.5), None, *late(0.75)),
        "beta 0.5, s 0.25, k 2, m 0.75": Settings(MixedResolution(0.5, 0.25), DeepCache(2, 2), *late(0.75)),
        "beta 0.5, s 0.5, m 0.75": Settings(MixedResolution(0.5, 0.5), None, *late(0.75)),
        "the paper's: beta 0.5, s 0.5, k 2, m 0.75": PRESETS["sd15"],
        "the shipped preset": PRESETS["embedded"],
        "the shipped preset with depth 1": replace(PRESETS["embedded"], deep_cache=DeepCache(3, 1, 0.25)),
    }
    return [
        *(postdiff(setting, settings) for setting, settings in ours.items()),
        *(node(EasyCacheNode, reuse_threshold=value) for value in (0.1, 0.2, 0.4)),
        *(node(LazyCacheNode, reuse_threshold=value) for value in (0.1, 0.2, 0.4)),
        *(node(TomePatchModel, ratio=value) for value in (0.3, 0.6)),
        *(node(HyperTile, tile_size=value) for value in (128, 64)),
        *(node(PatchModelAddDownscale, end_percent=value) for value in (0.35, 0.7)),
        *(node(CFGOverride, start_percent=value) for value in (0.75, 0.5, 0.25)),
        *(fewer_steps(share) for share in (0.75, 0.5, 0.35)),
    ]


def of_pack(folder: Path, settings: dict[str, dict[str, Any]]) -> list[Candidate]:
    """The nodes of a pack in `folder` that patch a MODEL, at their defaults or at `settings`.

    Raises RuntimeError if ComfyUI cannot load the pack.
    """
    before = set(nodes.NODE_CLASS_MAPPINGS)
    if not asyncio.run(nodes.load_custom_node(str(folder.resolve()))):
        raise RuntimeError("ComfyUI could not import it; its log says why")
    added = {name: nodes.NODE_CLASS_MAPPINGS[name] for name in nodes.NODE_CLASS_MAPPINGS if name not in before}
    usable = {name: node_class for name, node_class in added.items() if _patches_a_model(node_class)}
    return [replace(node(node_class, **settings.get(name, {})), name=name) for name, node_class in usable.items()]


def _patches_a_model(node_class: type) -> bool:
    required = node_class.INPUT_TYPES().get("required", {})
    others = [declared for name, declared in required.items() if name != "model"]
    returned = tuple(node_class.RETURN_TYPES)
    return "model" in required and returned[:1] == ("MODEL",) and all(map(_is_a_widget, others))


def _is_a_widget(declared: Sequence[Any]) -> bool:
    return isinstance(declared[0], (list, tuple)) or declared[0] in ("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO")


def defaults(node_class: type) -> dict[str, Any]:
    """What a node's inputs are when nobody touches them, MODEL aside."""
    required = node_class.INPUT_TYPES().get("required", {})
    return {name: _default(declared) for name, declared in required.items() if name != "model"}


def _default(declared: Sequence[Any]) -> Any:
    kind, options = declared[0], declared[1] if len(declared) > 1 else {}
    choices = kind if isinstance(kind, (list, tuple)) else options.get("options", [None])
    return options.get("default", choices[0] if choices else None)
