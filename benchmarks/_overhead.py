"""What the nodes cost by themselves: neutral settings on a model that does nothing."""

from __future__ import annotations

import statistics
from typing import Any

import comfy.sd  # noqa: F401  (must be imported before comfy.samplers)
import nodes
import torch
from _measure import Clock

import tiny_models  # tests/support

STEPS, ROUNDS = 200, 7


def neutral_milliseconds(clock: Clock) -> float:
    """Milliseconds that switched-off nodes add to one model evaluation (median over alternating runs)."""
    from postdiff.postdiff_core import patch
    from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution

    stock = tiny_models.sd15()
    unet = stock.model.diffusion_model
    # The host's wrappers lie around _forward, so they still run.
    unet._forward = lambda x, *_, **__: torch.zeros_like(x)
    switched_off = (MixedResolution(low_res_until=0.0), DeepCache(interval=1), CrossAttnCache(1.0), CFGCutoff(1.0))
    neutral = stock
    for technique in switched_off:
        neutral = patch.add(neutral, technique)

    def seconds(model: Any) -> float:
        inputs = tiny_models.sampler_inputs(model, steps=STEPS)
        return clock.seconds(lambda: nodes.KSampler().sample(**inputs))

    seconds(neutral)  # counts the model's work, once
    added = [seconds(neutral) - seconds(stock) for _ in range(ROUNDS)]
    return statistics.median(added) / STEPS * 1000
