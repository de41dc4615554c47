"""The pack's nodes, called as a graph calls them."""

from __future__ import annotations

from typing import Any

import nodes as comfy_nodes
import torch
from comfy.model_patcher import ModelPatcher

from postdiff.nodes.cfg_cutoff import CFGCutoff
from postdiff.nodes.cross_attn_cache_patch import CrossAttnCachePatch
from postdiff.nodes.deep_cache_patch import DeepCachePatch
from postdiff.nodes.mixed_resolution_ksampler import MixedResolutionKSampler
from postdiff.nodes.mixed_resolution_patch import MixedResolutionPatch
from postdiff.postdiff_core.patch import carried_by
from reference import Techniques

NEUTRAL = Techniques()


def mixed_resolution_inputs(techniques: Techniques) -> dict[str, Any]:
    return {
        "low_res_scale": techniques.low_res_scale,
        "low_res_until": techniques.low_res_until,
        "upscale_method": techniques.upscale_method,
        "switch": techniques.switch,
    }


def with_deep_cache(model: ModelPatcher, techniques: Techniques) -> ModelPatcher:
    return DeepCachePatch.execute(
        model=model,
        interval=techniques.interval,
        depth=techniques.depth,
        start_percent=techniques.deep_start,
        end_percent=techniques.deep_end,
    ).args[0]


def with_cross_attn_cache(model: ModelPatcher, techniques: Techniques) -> ModelPatcher:
    return CrossAttnCachePatch.execute(
        model=model, start_percent=techniques.cross_attn_start, mode=techniques.mode
    ).args[0]


def with_cfg_cutoff(model: ModelPatcher, techniques: Techniques) -> ModelPatcher:
    return CFGCutoff.execute(model=model, start_percent=techniques.cutoff_start).args[0]


def with_mixed_resolution(model: ModelPatcher, techniques: Techniques) -> ModelPatcher:
    return MixedResolutionPatch.execute(model=model, **mixed_resolution_inputs(techniques)).args[0]


def with_caches(model: ModelPatcher, techniques: Techniques) -> ModelPatcher:
    """Patched with what `techniques` ask for, except mixed resolution."""
    if techniques.interval != NEUTRAL.interval:
        model = with_deep_cache(model, techniques)
    if techniques.cross_attn_start != NEUTRAL.cross_attn_start:
        model = with_cross_attn_cache(model, techniques)
    if techniques.cutoff_start != NEUTRAL.cutoff_start:
        model = with_cfg_cutoff(model, techniques)
    return model


def patched(model: ModelPatcher, techniques: Techniques) -> ModelPatcher:
    """Patched with all that `techniques` ask for, by the patch nodes alone."""
    model = with_caches(model, techniques)
    return model if techniques.low_res_scale == NEUTRAL.low_res_scale else with_mixed_resolution(model, techniques)


def mixed_resolution_sampler(model: ModelPatcher, techniques: Techniques, **inputs: Any) -> tuple[dict, ModelPatcher]:
    """The two outputs of the MixedResolutionKSampler node."""
    return MixedResolutionKSampler.execute(model=model, **inputs, **mixed_resolution_inputs(techniques)).args


def sample(techniques: Techniques, *, inputs: dict[str, Any]) -> torch.Tensor:
    """The latent under `techniques`, by the node a user takes: the stock KSampler where the size stays the same."""
    inputs = dict(inputs)
    model = with_caches(inputs.pop("model"), techniques)
    if techniques.low_res_scale == NEUTRAL.low_res_scale:
        return comfy_nodes.KSampler().sample(model=model, **inputs)[0]["samples"]
    return mixed_resolution_sampler(model, techniques, **inputs)[0]["samples"]


def report(model: ModelPatcher) -> dict[str, Any]:
    """The report of the last run on a patched MODEL."""
    last_report = carried_by(model).last_report
    assert last_report is not None, "The model has not run."
    return last_report
