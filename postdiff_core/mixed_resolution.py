"""Mixed-resolution denoising (section 2.2 of the paper): the first L steps at low resolution, the rest at full size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain
from types import SimpleNamespace
from typing import Any

import comfy.utils
import torch
from comfy.model_sampling import CONST
from torch.nn.functional import interpolate

from .architecture import Size, diffusion_model_of, format_size, latent_geometry, size_ratio
from .guidance_memory import fresh_guidance_memory
from .noise import NoiseSource, from_given, from_seed, is_of_seed
from .run import Run
from .sampling_arguments import SamplingArguments, batch_index_of, copied_conds
from .schedule import MixedResolution, low_size

# Of RES4LYF's samplers, -1 where they do all steps: each stage would take them for a run of its own.
PART_OF_THE_STEPS = ("steps_to_run", "start_at_step")

Space = Callable[[torch.Tensor], torch.Tensor]  # from the latents that nodes see to a space of the same shape
Mixing = Callable[[torch.Tensor, Space], torch.Tensor]


def refusal(model: Any) -> str | None:
    """Why mixed resolution cannot act on this MODEL; None if it can."""
    diffusion_model = diffusion_model_of(model)
    if latent_geometry(diffusion_model) is not None:
        return None
    return (
        f"Mixed resolution cannot act on {type(model.model).__name__}: {type(diffusion_model).__name__} does not say "
        "which latent sizes it takes."
    )


def reason_against(sampling: SamplingArguments, conds: dict[str, Any], diffusion_model: Any) -> str | None:
    """Why this run cannot have a low-resolution stage; None if it can."""
    if len(sampling.more.get("latent_shapes") or ()) > 1:
        return "the latent is nested"
    if sampling.noise.ndim != 4:
        return f"the latent has {sampling.noise.ndim} dimensions, not 4"
    if not torch.count_nonzero(sampling.noise):
        return "no noise is added (add_noise is off), so the latent is already noisy"
    if any(getattr(sampling.sampler, "extra_options", {}).get(name, -1) >= 0 for name in PART_OF_THE_STEPS):
        return (
            "the sampler does only a part of its steps (steps_to_run, start_at_step), and another may go on from there"
        )
    if sampling.seed is None:
        return "the run has no seed to draw low-resolution noise from"
    geometry = latent_geometry(diffusion_model)
    has_areas = any("area" in cond or cond.get("set_area_to_bounds") for group in conds.values() for cond in group)
    if has_areas and geometry is not None and geometry.smallest_mean:
        return f"{type(diffusion_model).__name__} takes few sizes, and the prompts' areas would have others"
    return None


def low_resolution(settings: MixedResolution, size: Size, diffusion_model: Any) -> tuple[Size | None, str | None]:
    """The size of stage 1 (None if that is the full one), and a note if the model needs it larger than asked for."""
    geometry = latent_geometry(diffusion_model)
    assert geometry is not None
    asked = low_size(*size, settings.low_res_scale, geometry.multiple)
    fitting = low_size(*size, settings.low_res_scale, geometry.multiple, geometry.smallest_mean)
    if fitting == size:
        return None, "All steps run at full size: the model takes no smaller latent near the size asked for."
    if fitting == asked:
        return asked, None
    name = type(diffusion_model).__name__
    return fitting, (
        f"The low-resolution stage runs at {format_size(fitting)} latents instead of {format_size(asked)}: "
        f"{name} needs a mean side of at least {geometry.smallest_mean}."
    )


def sample_in_two_stages(
    run: Run,
    settings: MixedResolution,
    low: Size,
    sampling: SamplingArguments,
    executor: Callable,
) -> torch.Tensor:
    """Stage 1 at `low` latent sides, then stage 2 from its upsampled x0; returns the finished latent."""
    guider, low_res_steps = run.guider, run.plan.low_res_steps
    draw = _noise_source(run, sampling)
    conds = copied_conds(guider.conds)
    mask = _active_mask(guider, sampling)

    run.enter_stage(range(low_res_steps))
    guider.conds = {name: [scale_cond(cond, sampling.size, low) for cond in group] for name, group in conds.items()}
    first, last_x0 = _low_stage(sampling, low, low_res_steps, draw)
    with fresh_guidance_memory(guider, low):
        samples = first.run_by(executor)
        height, width = samples.shape[-2:]
        if (height, width) != low:
            # Most do so at steps that they count themselves: cut in two, the run would end at some other size.
            raise RuntimeError(f"the sampler has changed the latent's size to {format_size((height, width))}")
        x0 = last_x0(samples, guider.model_patcher.model)

    sigmas = sampling.sigmas[low_res_steps:].clone()
    if settings.switch == "matched" and sigmas[-1] > 0:
        run.note(
            "switch is matched, but the run ends before its noise is gone, for which the next sampler expects the "
            "schedule's own noise levels: stage 2 keeps to those, as paper does."
        )
    elif settings.switch == "matched":
        model_sampling = guider.model_patcher.get_model_object("model_sampling")
        sigmas = matched_sigmas(sigmas, size_ratio(sampling.size, low), model_sampling)
    run.enter_stage(range(low_res_steps, len(run.plan.steps)), sigmas.tolist())
    guider.conds = _with_given_picture(conds, guider.model_patcher.model, sampling.latent_image)
    _forget_noise_level_of_hooks(conds)
    height, width = sampling.size
    x0 = x0.to(sampling.latent_image.device)  # MPS has no `area` for every size
    x0 = comfy.utils.common_upscale(x0, width, height, settings.upscale_method, "disabled")
    start = _keep_outside_mask(guider, sampling, x0, sigmas[0])
    mixed_once = _mixed_once(mask, sampling.latent_image, start)
    samples = _full_stage(guider, sampling, start, sigmas, low_res_steps, draw, mixed_once).run_by(executor)
    return samples if sampling.sigmas[-1] > 0 else mixed_once(samples, lambda latent: latent)


def _noise_source(run: Run, sampling: SamplingArguments) -> NoiseSource:
    batch_index = batch_index_of(run.guider)
    assert sampling.seed is not None
    if is_of_seed(sampling.noise, sampling.latent_image, sampling.seed, batch_index):
        return from_seed(batch_index)
    run.note(
        "The noise of this run is not what its seed draws for this latent (two seeds mixed, say, or pictures chosen "
        "out of a batch). The steps at low resolution and those at full size both take theirs from it, so that similar "
        "noise still gives similar pictures: there is nothing to do.",
        logging.INFO,
    )
    return from_given(sampling.noise)


def matched_sigmas(sigmas: torch.Tensor, ratio: float, model_sampling: Any) -> torch.Tensor:
    """The noise levels of stage 2 that match those of a stage 1 whose sides are 1 / `ratio` as long. Not in the paper.

    Write a noisy latent as x0 + sigma * noise, and let r be the ratio. Averaging r x r pixels leaves what both sizes
    hold as it is and divides the noise by r: at full size, noise of r * sigma hides as much of the coarse structure as
    sigma does at low size. The paper noises the enlarged x0 to sigma itself. The model then finds less noise than the
    x0 is uncertain by, and above the low size's finest frequencies, where the enlarged x0 holds nothing, it finds noise
    of sigma alone: little enough that fine detail would show, so that its absence reads as a picture without any. At
    r * sigma both agree: the coarse part is as uncertain as stage 1 left it, and the missing detail is hidden at a
    level where the model still makes it up. The later levels follow by the same rule, so that stage 2 goes on through
    the schedule where stage 1 stopped, in the same number of steps.

    Flow models mix (1 - t) * x0 + t * noise: their sigma is t / (1 - t), and the rule reads t' = r t / (1 + (r - 1) t),
    the timestep shift of Stable Diffusion 3 (Esser et al. 2024, section 5.3.2), found by the same argument. Elsewhere r
    is lowered where needed to keep the first level within the model's.
    """
    if isinstance(model_sampling, CONST):
        return ratio * sigmas / (1 + (ratio - 1) * sigmas)
    return sigmas * min(ratio, float(model_sampling.sigma_max) / float(sigmas[0]))


def scale_cond(cond: dict, size: Size, low: Size) -> dict:
    """A conditioning for stage 1: its absolute area and GLIGEN boxes in the low latent's units.

    Masks, percentage areas, hints and concatenated latents follow the latent by themselves.
    """
    scaled = dict(cond)
    area = cond.get("area")
    if area is not None and area[0] != "percentage":
        scaled["area"] = _scale_box(area, size, low)
    gligen = cond.get("gligen")
    if gligen is not None and gligen[0] == "position":
        boxes = [(embedding, *_scale_box(box, size, low)) for embedding, *box in gligen[2]]
        scaled["gligen"] = (*gligen[:2], boxes)
    return scaled


def _forget_noise_level_of_hooks(conds: dict[str, Any]) -> None:
    """Have hooks with keyframes begin anew, whose reset by the host leaves the noise level that they saw last.

    Finding it again, as heun does at the switch, they would keep the strength of their first keyframe (comfy/hooks.py).
    """
    for cond in chain(*conds.values()):
        for hook in getattr(cond.get("hooks"), "hooks", ()):
            hook.hook_keyframe._curr_t = -1.0


def _with_given_picture(conds: dict[str, Any], model: Any, given: torch.Tensor) -> dict[str, Any]:
    """Conditionings for stage 2: inpainting checkpoints see the given latent, as in a stock run.

    Where a conditioning names no picture (VAEEncodeForInpaint), the host shows them the one that the run begins with,
    which in stage 2 is the enlarged x0.
    """
    if not getattr(model, "concat_keys", ()) or not torch.count_nonzero(given):
        return conds
    return {
        name: [
            cond if cond.get("concat_latent_image") is not None else {**cond, "concat_latent_image": given}
            for cond in group
        ]
        for name, group in conds.items()
    }


def _scale_box(box: Any, size: Size, low: Size) -> tuple[int, ...]:
    """(height, width, y, x) scaled, at least 1 x 1 and inside the latent."""
    offsets = [
        min(round(offset * small / full), small - 1) for offset, full, small in zip(box[2:], size, low, strict=True)
    ]
    sides = [
        min(max(round(side * small / full), 1), small - offset)
        for side, full, small, offset in zip(box[:2], size, low, offsets, strict=True)
    ]
    return (*sides, *offsets)


def _low_stage(
    sampling: SamplingArguments, low: Size, low_res_steps: int, draw: NoiseSource
) -> tuple[SamplingArguments, Callable[[torch.Tensor, Any], torch.Tensor]]:
    """Stage 1, and a function that gives its last predicted x0 (out of model space) from what stage 1 returned."""
    latent, mask, seen = sampling.latent_image, sampling.denoise_mask, []
    height, width = sampling.size

    def shown(latent: torch.Tensor) -> torch.Tensor:
        """At full size: nodes gather what they are shown in each step (KSampler Progress)."""
        return comfy.utils.common_upscale(latent, width, height, "nearest-exact", "disabled")

    def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
        seen[:] = [denoised]
        if sampling.callback is not None:
            sampling.callback(step, shown(denoised), shown(x), len(sampling.sigmas) - 1)

    def last_x0(samples: torch.Tensor, model: Any) -> torch.Tensor:
        return model.process_latent_out(seen[0].to(torch.float32)) if seen else samples

    assert sampling.seed is not None
    if torch.count_nonzero(latent):
        latent = interpolate(latent.float(), size=low, mode="bilinear", antialias=True).to(latent.dtype)
    else:
        latent = latent.new_zeros((*latent.shape[:-2], *low))
    stage = sampling.resized(
        latent_image=latent,
        denoise_mask=None if mask is None else interpolate(mask.float(), size=low, mode="bilinear"),
        sigmas=sampling.sigmas[: low_res_steps + 1].clone(),
        callback=callback,
        # Last, so that a sampler that draws from the global generator draws what it does in a stock run.
        noise=draw(latent, sampling.seed),
    )
    return stage, last_x0


def _full_stage(
    guider: Any,
    sampling: SamplingArguments,
    start: torch.Tensor,
    sigmas: torch.Tensor,
    low_res_steps: int,
    draw: NoiseSource,
    mixed_once: Mixing,
) -> SamplingArguments:
    def into_model_space(latent: torch.Tensor) -> torch.Tensor:
        return guider.model_patcher.model.process_latent_in(latent) if torch.count_nonzero(latent) else latent

    def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
        if sampling.callback is not None:
            x0 = mixed_once(denoised, into_model_space)
            sampling.callback(low_res_steps + step, x0, x, len(sampling.sigmas) - 1)

    assert sampling.seed is not None
    seed = (sampling.seed + 1) % 2**64
    start = start.to(sampling.latent_image)
    return replace(
        sampling,
        latent_image=start,
        sigmas=sigmas,
        callback=callback,
        seed=seed,
        noise=draw(start, seed),
    )


def _keep_outside_mask(guider: Any, sampling: SamplingArguments, x0: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The upsampled x0 where the mask is active at the switch, the given latent elsewhere."""
    mask = sampling.denoise_mask
    if mask is None:
        return x0
    mask_function = guider.model_options.get("denoise_mask_function")
    if mask_function is not None:
        sigma = sigma.reshape(1).to(mask.device)
        model = SimpleNamespace(inner_model=guider.model_patcher.model)
        mask = mask_function(sigma, mask, extra_options={"model": model, "sigmas": sampling.sigmas})
    mask = mask.to(x0)
    return x0 * mask + sampling.latent_image.to(x0) * (1 - mask)


def _mixed_once(mask: Callable[[], torch.Tensor | None], given: torch.Tensor, start: torch.Tensor) -> Mixing:
    """Gives a prediction of stage 2 as much of the given latent as the mask says; `space` takes latents to its own.

    Under a soft mask the host mixes into its result what a run began with; in stage 2 that is `start`, mixed already.
    """

    @cache
    def missing(space: Space, device: torch.device) -> torch.Tensor:
        return space(given).to(device) - space(start).to(device)

    def mixed_once(x0: torch.Tensor, space: Space) -> torch.Tensor:
        active = mask()
        if active is None:
            return x0
        return x0 + ((1 - active.to(x0.device)) * missing(space, x0.device)).to(x0.dtype)

    return mixed_once


def _active_mask(guider: Any, sampling: SamplingArguments) -> Callable[[], torch.Tensor | None]:
    """A function that gives the mask of the last evaluation.

    Differential diffusion changes it from step to step, by the progress it sees in the sigmas it is shown: a stage must
    not look like a whole run.
    """
    mask_function = guider.model_options.get("denoise_mask_function")
    if mask_function is None or sampling.denoise_mask is None:
        return lambda: sampling.denoise_mask
    active = [sampling.denoise_mask]

    def shown_whole_run(sigma, denoise_mask, extra_options):
        shown = {**extra_options, "sigmas": sampling.sigmas.to(sigma.device)}
        active[:] = [mask_function(sigma, denoise_mask, extra_options=shown)]
        return active[0]

    guider.model_options["denoise_mask_function"] = shown_whole_run
    return lambda: active[0]
