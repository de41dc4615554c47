"""The host's sampler nodes, fed from a KSampler's inputs. Each function gives the latents that its graph would save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import comfy.sample
import nodes as comfy_nodes
import torch
import torch._dynamo
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    BasicScheduler,
    CFGGuider,
    DualCFGGuider,
    DualModelGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustom,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_perpneg import PerpNegGuider

import tiny_models
from companions import another_prompt
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler

Inputs = dict[str, Any]
Sample = Callable[[Inputs], list[torch.Tensor]]


def ksampler(inputs: Inputs) -> list[torch.Tensor]:
    """The parts of a nested latent, or the latent."""
    samples = comfy_nodes.KSampler().sample(**inputs)[0]["samples"]
    return samples.unbind() if samples.is_nested else [samples]


def postdiff_ksampler(inputs: Inputs) -> list[torch.Tensor]:
    """The pack's own sampler with no preset: the patches on the model, and noise by batch_index."""
    return [PostDiffKSampler.execute(**inputs, preset="off").args[0]["samples"]]


def ksampler_advanced(
    inputs: Inputs, *, start: int = 0, end: int = 10000, add_noise: bool = True, leftover_noise: bool = False
) -> list[torch.Tensor]:
    """KSamplerAdvanced from step `start` to `end`."""
    given = {name: value for name, value in inputs.items() if name not in ("seed", "denoise")}
    (latent,) = comfy_nodes.KSamplerAdvanced().sample(
        **given,
        noise_seed=inputs["seed"],
        add_noise="enable" if add_noise else "disable",
        start_at_step=start,
        end_at_step=end,
        return_with_leftover_noise="enable" if leftover_noise else "disable",
    )
    return [latent["samples"]]


def last_steps(inputs: Inputs) -> list[torch.Tensor]:
    """KSamplerAdvanced on a given picture, all but the first two steps."""
    return ksampler_advanced(inputs, start=2)


def two_slices(inputs: Inputs) -> list[torch.Tensor]:
    """One KSamplerAdvanced hands its leftover noise to another."""
    half = inputs["steps"] // 2
    (noisy,) = ksampler_advanced(inputs, end=half, leftover_noise=True)
    latent = inputs["latent_image"] | {"samples": noisy}
    return ksampler_advanced(inputs | {"latent_image": latent}, start=half, add_noise=False)


def noisy_latent(inputs: Inputs) -> list[torch.Tensor]:
    """KSamplerAdvanced with add_noise off on a latent that another node has noised."""
    latent = inputs["latent_image"]
    noise = comfy.sample.prepare_noise(latent["samples"], inputs["seed"]) * 14.6
    return ksampler_advanced(inputs | {"latent_image": latent | {"samples": noise}}, add_noise=False)


def sampler_custom(inputs: Inputs, other_sampler: Any = None) -> list[torch.Tensor]:
    """With the sampler that the inputs name, or another."""
    sampler, sigmas = sampler_and_sigmas(inputs)
    sampler = other_sampler or sampler
    given = {name: inputs[name] for name in ("model", "cfg", "positive", "negative", "latent_image")}
    output = SamplerCustom.execute(**given, add_noise=True, noise_seed=inputs["seed"], sampler=sampler, sigmas=sigmas)
    return [output.args[0]["samples"]]


def with_cfg_guider(inputs: Inputs) -> list[torch.Tensor]:
    guider = CFGGuider.execute(inputs["model"], inputs["positive"], inputs["negative"], inputs["cfg"])
    return sampler_custom_advanced(inputs, guider.args[0])


def with_basic_guider(inputs: Inputs) -> list[torch.Tensor]:
    return sampler_custom_advanced(inputs, BasicGuider.execute(inputs["model"], inputs["positive"]).args[0])


def with_dual_cfg_guider(inputs: Inputs, style: str = "regular") -> list[torch.Tensor]:
    prompts = inputs["positive"], another_prompt(inputs), inputs["negative"]
    return sampler_custom_advanced(inputs, DualCFGGuider.execute(inputs["model"], *prompts, 3.0, 4.0, style).args[0])


def with_nested_dual_cfg_guider(inputs: Inputs) -> list[torch.Tensor]:
    return with_dual_cfg_guider(inputs, "nested")


def with_perp_neg_guider(inputs: Inputs) -> list[torch.Tensor]:
    prompts = inputs["positive"], inputs["negative"], another_prompt(inputs)
    return sampler_custom_advanced(inputs, PerpNegGuider.execute(inputs["model"], *prompts, 5.0, 1.0).args[0])


def with_dual_model_guider(inputs: Inputs) -> list[torch.Tensor]:
    """The negative prompt is evaluated by another model."""
    positive, negative = inputs["positive"], inputs["negative"]
    guider = DualModelGuider.execute(inputs["model"], positive, inputs["cfg"], tiny_models.small_unet(seed=3), negative)
    return sampler_custom_advanced(inputs, guider.args[0])


def sampler_custom_advanced(inputs: Inputs, guider: Any) -> list[torch.Tensor]:
    noise = RandomNoise.execute(inputs["seed"]).args[0]
    output = SamplerCustomAdvanced.execute(noise, guider, *sampler_and_sigmas(inputs), inputs["latent_image"])
    return [output.args[0]["samples"]]


def two_sizes(inputs: Inputs) -> list[torch.Tensor]:
    """Two samplers in one graph on one model: the first latent, and the second from it enlarged (hires fix)."""
    (first,) = ksampler(inputs)
    sides = [side * 3 // 2 for side in first.shape[-2:]]
    (latent,) = comfy_nodes.LatentUpscale().upscale(
        {"samples": first}, "nearest-exact", 8 * sides[1], 8 * sides[0], "disabled"
    )
    (second,) = ksampler(inputs | {"latent_image": latent, "denoise": 0.6})
    return [first, second]


def tiles(inputs: Inputs) -> list[torch.Tensor]:
    """A run for each tile of a picture, as UltimateSDUpscale does: many runs, the tiles at the edges smaller."""
    picture = inputs["latent_image"]["samples"]
    size = picture.shape[-1] // 4 * 3
    found = []
    for top in range(0, picture.shape[-2], size):
        for left in range(0, picture.shape[-1], size):
            tile = {"samples": picture[..., top : top + size, left : left + size]}
            found += ksampler(inputs | {"latent_image": tile, "denoise": 0.6})
    return found


def in_little_memory(inputs: Inputs) -> list[torch.Tensor]:
    """No memory for two rows at once: the host evaluates the prompts one after the other."""
    with mock.patch.object(ModelPatcher, "get_free_memory", lambda _self, _device: 0):
        return ksampler(inputs)


def freshly_compiled(inputs: Inputs) -> list[torch.Tensor]:
    """Nothing that another run has traced is used."""
    torch._dynamo.reset()
    try:
        return ksampler(inputs)
    finally:
        torch._dynamo.reset()


def sampler_and_sigmas(inputs: Inputs) -> tuple[Any, torch.Tensor]:
    sigmas = BasicScheduler.execute(inputs["model"], inputs["scheduler"], inputs["steps"], inputs["denoise"])
    return KSamplerSelect.execute(inputs["sampler_name"]).args[0], sigmas.args[0]
