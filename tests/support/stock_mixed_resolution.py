"""Mixed resolution wired from ComfyUI's own calls: two runs of a stock guider, an enlarged prediction in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST

Size = tuple[int, int]


def sigmas_of(inputs: dict[str, Any]) -> torch.Tensor:
    """The noise levels of a KSampler with these inputs."""
    names = ("steps", "sampler_name", "scheduler", "denoise")
    steps, sampler_name, scheduler, denoise = (inputs[name] for name in names)
    return comfy.samplers.KSampler(inputs["model"], steps, torch.device("cpu"), sampler_name, scheduler, denoise).sigmas


def cfg_guider(model: ModelPatcher, positive: list, negative: list, cfg: float) -> comfy.samplers.CFGGuider:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def sample(
    inputs: dict[str, Any],
    *,
    low: Size,
    switch: int,
    upscale_method: str = "bilinear",
    sigmas: torch.Tensor | None = None,
    guider_for: Callable[[ModelPatcher, str], Any] | None = None,
    batch_index: list[int] | None = None,
    callback: Callable | None = None,
) -> torch.Tensor:
    """The latent of `switch` steps at `low` sides and the rest at full size.

    `inputs` are a KSampler's. `guider_for(model, stage)` makes the guider of stage "low" or "full", where it is not
    the KSampler's own with the same prompts in both. `callback` takes (step, x0, x, total steps), both of full
    size.
    """
    sigmas = sigmas_of(inputs) if sigmas is None else sigmas
    model = with_whole_schedule(inputs["model"], sigmas)
    if guider_for is None:

        def guider_for(model: ModelPatcher, _stage: str) -> comfy.samplers.CFGGuider:
            return cfg_guider(model, inputs["positive"], inputs["negative"], inputs["cfg"])

    picture = inputs["latent_image"]["samples"]
    mask = inputs["latent_image"].get("noise_mask")
    return two_stages(
        model,
        lambda stage, *given, seed: guider_for(model, stage).sample(*given, disable_pbar=True, seed=seed),
        picture,
        comfy.samplers.sampler_object(inputs["sampler_name"]),
        sigmas,
        None if mask is None else comfy.utils.reshape_mask(mask, picture.shape),
        callback,
        seed=inputs["seed"],
        low=low,
        switch=switch,
        upscale_method=upscale_method,
        batch_index=batch_index,
    )


def two_stages(
    model: ModelPatcher,
    sample_stage: Callable[..., torch.Tensor],
    picture: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    mask: torch.Tensor | None,
    callback: Callable | None,
    *,
    seed: int,
    low: Size,
    switch: int,
    upscale_method: str = "bilinear",
    matched: bool = False,
    batch_index: list[int] | None = None,
) -> torch.Tensor:
    """`switch` steps at `low` sides and the rest at full size, at its `matched` noise levels or at the schedule's own.

    `sample_stage(stage, noise, latent, sampler, sigmas, mask, callback, seed=)` runs a guider in stage "low" or "full".
    """
    total = len(sigmas) - 1
    sigmas = sigmas.clone()  # some samplers write to theirs
    predicted = {}

    def at_low_size(step: int, x0: torch.Tensor, x: torch.Tensor, _total: int) -> None:
        predicted["x0"] = x0
        if callback is not None:
            shown = (F.interpolate(latent, size=picture.shape[-2:], mode="nearest-exact") for latent in (x0, x))
            callback(step, *shown, total)

    def at_full_size(step: int, x0: torch.Tensor, x: torch.Tensor, _total: int) -> None:
        if callback is not None:
            callback(switch + step, x0, x, total)

    small = F.interpolate(picture, size=low, mode="bilinear", antialias=True)
    returned = sample_stage(
        "low",
        comfy.sample.prepare_noise(small, seed, batch_index),
        small,
        sampler,
        sigmas[: switch + 1].clone(),
        None if mask is None else F.interpolate(mask, size=low, mode="bilinear"),
        at_low_size,
        seed=seed,
    )
    x0 = model.model.process_latent_out(predicted["x0"]) if predicted else returned
    start = comfy.utils.common_upscale(x0, picture.shape[-1], picture.shape[-2], upscale_method, "disabled")
    later = sigmas[switch:].clone()
    if matched and later[-1] == 0:
        later = matched_levels(later, picture.shape[-2:], low, model.get_model_object("model_sampling"))
    if mask is not None:
        weight = _mask_at(model, mask, later[0])
        start = start * weight + picture * (1 - weight)
    finished = sample_stage(
        "full",
        comfy.sample.prepare_noise(picture, seed + 1, batch_index),
        start,
        sampler,
        later,
        mask,
        at_full_size,
        seed=seed + 1,
    )
    if mask is None or sigmas[-1] > 0:
        return finished
    weight = _mask_at(model, mask, later[-2])
    return finished + (1 - weight) * (picture - start)  # of what the host has mixed in, which was mixed already


def matched_levels(sigmas: torch.Tensor, full: Size, low: Size, model_sampling: Any) -> torch.Tensor:
    """The noise levels that hide as much at full size as `sigmas` do at low size."""
    ratio = math.sqrt(full[0] * full[1] / (low[0] * low[1]))
    if isinstance(model_sampling, CONST):
        noise, picture = ratio * sigmas, 1 - sigmas
        return noise / (noise + picture)
    return sigmas * min(ratio, float(model_sampling.sigma_max) / float(sigmas[0]))


def with_whole_schedule(model: ModelPatcher, sigmas: torch.Tensor) -> ModelPatcher:
    """A clone whose denoise mask function, if it has one, takes the sigmas of both stages for its schedule."""
    original = model.model_options.get("denoise_mask_function")
    model = model.clone()
    if original is not None:

        def with_whole_schedule(sigma: torch.Tensor, mask: torch.Tensor, extra_options: dict) -> torch.Tensor:
            return original(sigma, mask, extra_options={**extra_options, "sigmas": sigmas})

        model.set_model_denoise_mask_function(with_whole_schedule)
    return model


def _mask_at(model: ModelPatcher, mask: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    function = model.model_options.get("denoise_mask_function")
    if function is None:
        return mask
    return function(sigma.reshape(1), mask, extra_options={"model": SimpleNamespace(inner_model=model.model)})
