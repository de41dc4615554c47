"""Packs that make other graphs around the model: motion modules, detailers, tiles, and samplers of their own."""

from __future__ import annotations

import copy
import functools
from typing import Any
from unittest import mock

import comfy.sd
import torch
from comfy.taesd.taesd import TAESD
from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustomAdvanced

import companions
import other_packs
import sampler_nodes
import tiny_models
from companions import CPU, Inputs
from composition import COLUMNS, CROSS, CUT, DEEP, MIXED, TOGETHER, Row
from other_packs import Pack, module_beside

ANIMATEDIFF, IMPACT = "AnimateDiff-Evolved", "Impact Pack"
_PICTURE = {"seed": 16}
_LATE = frozenset({CROSS, CUT})  # nothing to do in the first half of a run
_FRAMES = {"batch": 4}
_MORE_FRAMES = {"batch": 6}
_WIDE = {"height": 16, "width": 24}
_LARGE_PICTURE = {"height": 24, "width": 32, "seed": 16}


@functools.cache
def tiny_vae() -> Any:
    """A small autoencoder that ComfyUI loads as a VAE."""
    network = TAESD(latent_channels=4)
    companions.fill(network)
    return comfy.sd.VAE(sd=dict(network.state_dict()), device=CPU)


def watched_vae() -> tuple[Any, list[torch.Tensor]]:
    """The same, and the latents that it is given: pictures come in 256 shades, which make rounding errors jump."""
    vae, latents = copy.copy(tiny_vae()), []

    def decode(latent: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        latents.append(latent.clone())
        return tiny_vae().decode(latent, *given, **options)

    vae.decode = decode
    return vae, latents


# AnimateDiff-Evolved

NARROWER = 10  # than SD1.5's layers, as tiny_models.narrow_sd15


@functools.cache
def motion_weights() -> dict[str, torch.Tensor]:
    """Those by which AnimateDiff-Evolved knows the third version of the motion modules."""
    block = "motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.1.pos_encoder.pe"
    return {f"{side}_blocks.3.{block}": torch.zeros(1, 32, 32) for side in ("down", "up")}


def motion_model() -> Any:
    """A motion module in the pack's own class, as narrow as the model."""
    classes = module_beside("ADE_UseEvolvedSampling", "motion_module_ad")
    wide = classes.MotionModule

    def narrow(channels: int, **given: Any) -> Any:
        return wide(channels // NARROWER, **given)

    weights, info = classes.normalize_ad_state_dict(dict(motion_weights()), "tiny")
    with mock.patch.object(classes, "MotionModule", narrow):
        network = classes.AnimateDiffModel(weights, info)
    companions.fill(network)
    injection = module_beside("ADE_UseEvolvedSampling", "model_injection")
    return injection.create_MotionModelPatcher(network, load_device=CPU, offload_device=CPU)


def animatediff(inputs: Inputs, *, moving: bool = True, **given: Any) -> Inputs:
    """A motion module between the frames, which are the pictures of a batch."""
    if moving:
        (given["m_models"],) = other_packs.run("ADE_ApplyAnimateDiffModelSimple", motion_model=motion_model())
    (model,) = other_packs.run("ADE_UseEvolvedSampling", model=inputs["model"], **given)
    return inputs | {"model": model}


def animatediff_windows(inputs: Inputs) -> Inputs:
    """Windows of four frames that stay where they are."""
    (options,) = other_packs.run("ADE_StandardStaticContextOptions", context_length=4, context_overlap=2)
    return animatediff(inputs, context_options=options)


def animatediff_moving_windows(inputs: Inputs) -> Inputs:
    """Windows that move from step to step."""
    (options,) = other_packs.run("ADE_LoopedUniformContextOptions", context_length=4, context_overlap=2)
    return animatediff(inputs, context_options=options)


def animatediff_free_noise(inputs: Inputs) -> Inputs:
    """Frames that share noise."""
    (settings,) = other_packs.run("ADE_AnimateDiffSamplingSettings", noise_type="FreeNoise", seed_offset=3)
    (options,) = other_packs.run("ADE_StandardStaticContextOptions", context_length=4, context_overlap=2)
    return animatediff(inputs, sample_settings=settings, context_options=options)


def evolved_custom_cfg(inputs: Inputs) -> Inputs:
    """Evolved sampling without a motion module, with a guidance scale of its own."""
    (cfg,) = other_packs.run("ADE_CustomCFGSimple", cfg=3.0)
    (settings,) = other_packs.run("ADE_AnimateDiffSamplingSettings", custom_cfg=cfg)
    return animatediff(inputs, moving=False, sample_settings=settings)


def free_init(inputs: Inputs) -> Inputs:
    """The run is repeated from its own low frequencies."""
    (iterations,) = other_packs.run("ADE_IterationOptsFreeInit", iterations=2)
    (settings,) = other_packs.run("ADE_AnimateDiffSamplingSettings", iteration_opts=iterations)
    return animatediff(inputs, sample_settings=settings)


# Impact Pack


def basic_pipe(inputs: Inputs) -> tuple:
    return inputs["model"], None, tiny_vae(), inputs["positive"], inputs["negative"]


def _settings(inputs: Inputs, *names: str) -> dict[str, Any]:
    return {name: inputs[name] for name in names}


KSAMPLER = ("seed", "steps", "cfg", "sampler_name", "scheduler", "latent_image", "denoise")


def impact_ksampler(inputs: Inputs) -> list[torch.Tensor]:
    pipe = basic_pipe(inputs)
    return [other_packs.run("ImpactKSamplerBasicPipe", basic_pipe=pipe, **_settings(inputs, *KSAMPLER))[1]["samples"]]


def impact_ksampler_advanced(inputs: Inputs) -> list[torch.Tensor]:
    given = _settings(inputs, "steps", "cfg", "sampler_name", "scheduler", "latent_image")
    output = other_packs.run(
        "ImpactKSamplerAdvancedBasicPipe",
        basic_pipe=basic_pipe(inputs),
        noise_seed=inputs["seed"],
        start_at_step=2,
        **given,
    )
    return [output[1]["samples"]]


def _half(inputs: Inputs) -> torch.Tensor:
    return (companions.pixel_ramp(inputs) > 0.5).float()


def two_samplers_for_mask(inputs: Inputs) -> list[torch.Tensor]:
    """One half of the picture by one sampler, the other by another."""
    given = _settings(inputs, "seed", "steps", "cfg", "scheduler", "denoise")
    (one,) = other_packs.run("KSamplerProvider", basic_pipe=basic_pipe(inputs), sampler_name="euler", **given)
    (other,) = other_packs.run("KSamplerProvider", basic_pipe=basic_pipe(inputs), sampler_name="dpmpp_2m", **given)
    (latent,) = other_packs.run(
        "TwoSamplersForMask",
        latent_image=dict(inputs["latent_image"]),
        base_sampler=one,
        mask_sampler=other,
        mask=_half(inputs),
    )
    return [latent["samples"]]


def regional_sampler(inputs: Inputs) -> list[torch.Tensor]:
    """After two steps, each region is sampled step by step, in a run for each step."""
    given = _settings(inputs, "cfg", "sampler_name", "scheduler")
    (base,) = other_packs.run("KSamplerAdvancedProvider", basic_pipe=basic_pipe(inputs), **given)
    region = inputs | {"positive": companions.another_prompt(inputs)}
    (other,) = other_packs.run("KSamplerAdvancedProvider", basic_pipe=basic_pipe(region), **given)
    (prompt,) = other_packs.run("RegionalPrompt", mask=_half(inputs), advanced_sampler=other)
    (latent,) = other_packs.run(
        "RegionalSampler",
        samples=inputs["latent_image"],
        base_sampler=base,
        regional_prompts=prompt,
        base_only_steps=4,
        overlap_factor=0,
        **_settings(inputs, "seed", "steps", "denoise"),
    )
    return [latent["samples"]]


@torch.inference_mode()
def detailer(inputs: Inputs) -> list[torch.Tensor]:
    """A part of a picture, cut out by a mask, enlarged and sampled."""
    picture = tiny_vae().decode(inputs["latent_image"]["samples"])
    mask = torch.zeros(1, *picture.shape[1:3])
    mask[:, 32:96, 40:88] = 1
    (segs,) = other_packs.run("MaskToSEGS", mask=mask, crop_factor=1.5, drop_size=1)
    vae, latents = watched_vae()
    given = _settings(inputs, "model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative")
    other_packs.run(
        "DetailerForEach",
        image=picture,
        segs=segs,
        clip=None,
        vae=vae,
        guide_size=128,
        max_size=192,
        denoise=0.6,
        wildcard="",
        **given,
    )
    return latents


@torch.inference_mode()
def iterative_upscale(inputs: Inputs) -> list[torch.Tensor]:
    """A latent enlarged through pictures in two steps, with a run at each size."""
    given = _settings(inputs, "model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative")
    (upscaler,) = other_packs.run("PixelKSampleUpscalerProvider", vae=tiny_vae(), **given | {"denoise": 0.6})
    latent, _ = other_packs.run(
        "IterativeLatentUpscale", samples=inputs["latent_image"], upscale_factor=1.5, steps=2, upscaler=upscaler
    )
    return [latent["samples"]]


# Tiled Diffusion


def tiled_diffusion(method: str, batch: int) -> companions.Companion:
    """Overlapping tiles, `batch` of them in one call of the model."""

    def companion(inputs: Inputs) -> Inputs:
        tiles = {"tile_width": 96, "tile_height": 96, "tile_overlap": 32, "tile_batch_size": batch}
        (model,) = other_packs.run("TiledDiffusion", model=inputs["model"], method=method, **tiles)
        return inputs | {"model": model}

    return companion


# Ultimate SD Upscale


@torch.inference_mode()
def ultimate_upscale(inputs: Inputs, **seams: Any) -> list[torch.Tensor]:
    """A run for each tile of a picture."""
    picture = tiny_vae().decode(inputs["latent_image"]["samples"])
    given = _settings(inputs, "model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative")
    (image,) = other_packs.run(
        "UltimateSDUpscaleNoUpscale",
        upscaled_image=picture,
        vae=tiny_vae(),
        denoise=0.6,
        tile_width=128,
        tile_height=128,
        tile_padding=16,
        **given | seams,
    )
    return [image]


def ultimate_upscale_with_seams(inputs: Inputs) -> list[torch.Tensor]:
    return ultimate_upscale(inputs, seam_fix_mode="Half Tile", seam_fix_denoise=0.5)


# Efficiency Nodes


def efficient_ksampler(inputs: Inputs, script: Any = None) -> list[torch.Tensor]:
    given = {"preview_method": "none", "vae_decode": "false", "prompt": {}, "my_unique_id": str(id(inputs))}
    output = other_packs.run("KSampler (Efficient)", **inputs, **given, script=script)
    return [output[3]["samples"]]


def efficient_ksampler_mixed_noise(inputs: Inputs) -> list[torch.Tensor]:
    """The noise of two seeds, by its own replacement of the host's function."""
    (script,) = other_packs.run("Noise Control Script", add_seed_noise=True, seed=5, weight=0.4)
    return efficient_ksampler(inputs, script)


def efficient_hires_fix(inputs: Inputs) -> list[torch.Tensor]:
    """A second run on the enlarged latent."""
    (script,) = other_packs.run("HighRes-Fix Script", upscale_by=1.5, hires_steps=8, denoise=0.6)
    return efficient_ksampler(inputs, script)


# Inspire Pack, which samples by the Impact Pack


def inspire_ksampler(inputs: Inputs) -> list[torch.Tensor]:
    """Noise that is mixed with another seed's."""
    noise = {"noise_mode": "CPU", "variation_seed": 5, "variation_strength": 0.4}
    (latent,) = other_packs.run("KSampler //Inspire", **inputs, **noise)
    return [latent["samples"]]


def inspire_progress(inputs: Inputs) -> list[torch.Tensor]:
    """The latent, and the latents of all steps, which the node gathers as it is shown them."""
    found = other_packs.run("KSamplerProgress //Inspire", **inputs, noise_mode="CPU", omit_final_latent=True)
    return [latent["samples"] for latent in found]


def inspire_regional_cfg(inputs: Inputs) -> Inputs:
    """Another guidance scale in each place."""
    mask = 0.5 + 0.5 * companions.pixel_ramp(inputs)
    (model,) = other_packs.run("RegionalCFG //Inspire", model=inputs["model"], mask=mask)
    return inputs | {"model": model}


def inspire_scheduled_cfg(inputs: Inputs) -> list[torch.Tensor]:
    sampler, sigmas = sampler_nodes.sampler_and_sigmas(inputs)
    guider, sigmas = other_packs.run(
        "ScheduledCFGGuider //Inspire", sigmas=sigmas, to_cfg=3.0, **_settings(inputs, "model", "positive", "negative")
    )
    noise = RandomNoise.execute(inputs["seed"]).args[0]
    return [SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, inputs["latent_image"]).args[0]["samples"]]


# KJNodes


def kj_scheduled_cfg(inputs: Inputs) -> list[torch.Tensor]:
    """No guidance in the first steps, of each stage where there are two."""
    given = _settings(inputs, "model", "positive", "negative", "cfg")
    (guider,) = other_packs.run("ScheduledCFGGuidance", start_percent=0.2, **given)
    return sampler_nodes.sampler_custom_advanced(inputs, guider)


def kj_differential_diffusion(inputs: Inputs) -> Inputs:
    inputs = companions.with_picture(inputs)
    model, latent = other_packs.run(
        "DifferentialDiffusionAdvanced",
        model=inputs["model"],
        samples=inputs["latent_image"],
        mask=companions.pixel_ramp(inputs),
        multiplier=1.5,
    )
    return inputs | {"model": model, "latent_image": latent}


def kj_cfg_zero_star(inputs: Inputs) -> Inputs:
    (model,) = other_packs.run("CFGZeroStarAndInit", model=inputs["model"], use_zero_init=False)
    return inputs | {"model": model}


# HiDiffusion


def raunet(inputs: Inputs) -> Inputs:
    """Layers at a smaller size in the early steps."""
    (model,) = other_packs.run(
        "ApplyRAUNet",
        model=inputs["model"],
        input_blocks="3",
        output_blocks="8",
        ca_input_blocks="4",
        ca_output_blocks="8",
        yaml_parameters="ca_latent_pixel_increment: 1",
    )
    return inputs | {"model": model}


def raunet_sd15(inputs: Inputs) -> Inputs:
    """The pack's preset for large pictures of SD1.5, where nearly the whole model runs at the smaller size."""
    (model,) = other_packs.run("ApplyRAUNetSimple", model=inputs["model"], model_type="SD15")
    return inputs | {"model": model}


def msw_msa(inputs: Inputs) -> Inputs:
    """Self-attention in windows that are shifted at random."""
    (model,) = other_packs.run("ApplyMSWMSAAttentionSimple", model=inputs["model"], model_type="SD15")
    return inputs | {"model": model}


# WaveSpeed


def first_block_cache(inputs: Inputs) -> Inputs:
    (model,) = other_packs.run("ApplyFBCacheOnModel", model=inputs["model"], residual_diff_threshold=0.3)
    return inputs | {"model": model}


# Easy Use


def easy_ksampler(inputs: Inputs) -> list[torch.Tensor]:
    pipe = {"loader_settings": {"positive": "", "negative": "", "xyplot": None}, "images": None, "seed": None}
    (pipe,) = other_packs.run(
        "easy pipeIn",
        pipe=pipe,
        model=inputs["model"],
        pos=inputs["positive"],
        neg=inputs["negative"],
        latent=inputs["latent_image"],
        vae=tiny_vae(),
    )
    (pipe,) = other_packs.run(
        "easy preSampling",
        pipe=pipe,
        **_settings(inputs, "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    )
    pipe, *_ = other_packs.run("easy kSampler", pipe=pipe, image_output="None", prompt={})
    return [pipe["samples"]["samples"]]


OLD_WINDOWS = "The reference also reuses windows of older steps, where PostDiff computes those that have moved."
DEEP_CACHE_INSTEAD = "Where the deep cache acts, WaveSpeed's first block cache does not; the run notes it."
NOT_OF_THE_SEED = "The noise of this run is not what its seed draws"
OTHER_NOISE = "The reference draws its noise from the seed."
NO_NEGATIVE_BEFORE = "Without guidance in the step before, the negative prompt's cross-attention is computed once more."
WAVESPEED_DECIDES = "WaveSpeed decides by the negative prompt's row too; after the cut-off it skips other calls."
RANDOM_WINDOWS = "The windows are drawn anew for each layer that runs, so that a run in full draws others."
TILES_IN_A_BATCH = "Rows of tiles in one batch cannot be told apart: after the cut-off all is computed once more."
TILED, UPSCALE, EFFICIENT = "Tiled Diffusion", "Ultimate SD Upscale", "Efficiency Nodes"
INSPIRE, KJ, HIDIFFUSION, WAVESPEED, EASY = "Inspire Pack", "KJNodes", "HiDiffusion", "WaveSpeed", "Easy Use"
_IN_A_BATCH: dict[str, Any] = {
    "not_compared": {TOGETHER: TILES_IN_A_BATCH},
    "computed_once_more": frozenset({TOGETHER}),
}

PACKS = (
    Pack(
        "Kosinkadink/ComfyUI-AnimateDiff-Evolved",
        "d8d163c",
        (
            Row("motion module", ANIMATEDIFF, animatediff, model=tiny_models.narrow_sd15, latent=_FRAMES),
            Row(
                "context windows", ANIMATEDIFF, animatediff_windows, model=tiny_models.narrow_sd15, latent=_MORE_FRAMES
            ),
            Row(
                "looped windows",
                ANIMATEDIFF,
                animatediff_moving_windows,
                may_note="Context windows that move from step to step",
                model=tiny_models.narrow_sd15,
                latent=_MORE_FRAMES,
                idle=frozenset({CROSS, DEEP}),
                not_compared={TOGETHER: OLD_WINDOWS},
                computed_once_more=frozenset({TOGETHER}),
            ),
            Row("FreeNoise", ANIMATEDIFF, animatediff_free_noise, model=tiny_models.narrow_sd15, latent=_MORE_FRAMES),
            Row("FreeInit", ANIMATEDIFF, free_init, model=tiny_models.narrow_sd15, latent=_FRAMES),
            Row("evolved sampling, custom CFG", ANIMATEDIFF, evolved_custom_cfg),
        ),
        has="ADE_UseEvolvedSampling",
    ),
    Pack(
        "ltdrdata/ComfyUI-Impact-Pack",
        "727295b",
        (
            Row("KSampler (pipe)", IMPACT, sample=impact_ksampler, same_as_ksampler=frozenset(COLUMNS)),
            Row("KSampler (Advanced/pipe)", IMPACT, sample=impact_ksampler_advanced, latent=_PICTURE),
            Row("TwoSamplersForMask", IMPACT, sample=two_samplers_for_mask, latent=_PICTURE),
            Row(
                "RegionalSampler",
                IMPACT,
                sample=regional_sampler,
                refuses=frozenset({MIXED}),
                idle=_LATE,
                may_note="The run has fewer than 3 steps",
            ),
            Row("DetailerForEach", IMPACT, sample=detailer, latent=_PICTURE),
            Row("IterativeLatentUpscale", IMPACT, sample=iterative_upscale, latent=_PICTURE),
        ),
        has="RegionalSampler",
    ),
    Pack(
        "shiimizu/ComfyUI-TiledDiffusion",
        "a155b1b",
        (
            Row("MultiDiffusion", TILED, tiled_diffusion("MultiDiffusion", 1), latent=_WIDE),
            Row(
                "MultiDiffusion, tiles in a batch",
                TILED,
                tiled_diffusion("MultiDiffusion", 4),
                latent=_WIDE,
                **_IN_A_BATCH,
            ),
            Row("Mixture of Diffusers", TILED, tiled_diffusion("Mixture of Diffusers", 4), latent=_WIDE, **_IN_A_BATCH),
            Row(
                "SpotDiffusion",
                TILED,
                tiled_diffusion("SpotDiffusion", 4),
                latent=_WIDE,
                one_model=True,
                **_IN_A_BATCH,
            ),
        ),
        has="TiledDiffusion",
    ),
    Pack(
        "ssitu/ComfyUI_UltimateSDUpscale",
        "34a3c2c",
        (
            Row("tiles", UPSCALE, sample=ultimate_upscale, latent=_LARGE_PICTURE),
            Row("tiles and seams", UPSCALE, sample=ultimate_upscale_with_seams, latent=_LARGE_PICTURE),
        ),
        has="UltimateSDUpscaleNoUpscale",
    ),
    Pack(
        "jags111/efficiency-nodes-comfyui",
        "4579b7d",
        (
            Row("KSampler (Efficient)", EFFICIENT, sample=efficient_ksampler, same_as_ksampler=frozenset(COLUMNS)),
            Row("KSampler (Efficient), noise of two seeds", EFFICIENT, sample=efficient_ksampler_mixed_noise),
            Row("KSampler (Efficient), HighRes-Fix", EFFICIENT, sample=efficient_hires_fix),
        ),
        has="KSampler (Efficient)",
    ),
    Pack(
        "ltdrdata/ComfyUI-Inspire-Pack",
        "1aef2c5",
        (
            Row(
                "KSampler //Inspire, variation of the noise",
                INSPIRE,
                sample=inspire_ksampler,
                may_note=NOT_OF_THE_SEED,
                not_compared=dict.fromkeys((MIXED, TOGETHER), OTHER_NOISE),
            ),
            Row("KSampler Progress (Inspire)", INSPIRE, sample=inspire_progress),
            Row("RegionalCFG //Inspire", INSPIRE, inspire_regional_cfg),
            Row("ScheduledCFGGuider //Inspire", INSPIRE, sample=inspire_scheduled_cfg),
        ),
        has="KSampler //Inspire",
    ),
    Pack(
        "kijai/ComfyUI-KJNodes",
        "3f20054",
        (
            Row(
                "ScheduledCFGGuidance",
                KJ,
                sample=kj_scheduled_cfg,
                not_compared={TOGETHER: NO_NEGATIVE_BEFORE},
                computed_once_more=frozenset({TOGETHER}),
            ),
            Row("DifferentialDiffusionAdvanced", KJ, kj_differential_diffusion),
            Row("CFGZeroStarAndInit", KJ, kj_cfg_zero_star),
        ),
        has="ScheduledCFGGuidance",
    ),
    Pack(
        "blepping/comfyui_jankhidiffusion",
        "54d60e0",
        (
            Row("RAUNet", HIDIFFUSION, raunet, model=tiny_models.sd15, one_model=True),
            Row("RAUNet, preset for SD1.5", HIDIFFUSION, raunet_sd15, model=tiny_models.sd15, one_model=True),
            Row(
                "MSW-MSA attention",
                HIDIFFUSION,
                msw_msa,
                model=tiny_models.sd15,
                not_compared=dict.fromkeys((DEEP, TOGETHER), RANDOM_WINDOWS),
            ),
        ),
        has="ApplyRAUNet",
    ),
    Pack(
        "chengzeyi/Comfy-WaveSpeed",
        "8253745",
        (
            Row(
                "first block cache",
                WAVESPEED,
                first_block_cache,
                one_model=True,
                without_effect=dict.fromkeys((DEEP, TOGETHER), DEEP_CACHE_INSTEAD),
                not_compared={CUT: WAVESPEED_DECIDES},
                computed_once_more=frozenset({CUT}),
            ),
        ),
        has="ApplyFBCacheOnModel",
    ),
    Pack(
        "yolain/ComfyUI-Easy-Use",
        "4de1ab3",
        (Row("easy kSampler", EASY, sample=easy_ksampler, same_as_ksampler=frozenset(COLUMNS)),),
        has="easy kSampler",
    ),
)
