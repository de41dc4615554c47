"""Random models of a few million weights or less, built from ComfyUI's own classes, and runs of its stock nodes.

The weights are scaled so that a latent depends noticeably on the prompt, the deep blocks and guidance: a test that
leaves one of them out must see another latent (tests/support/test_tiny_models.py holds that).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.latent_formats
import comfy.sd  # must be imported before comfy.samplers
import comfy.supported_models as supported_models
import nodes
import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

CPU = torch.device("cpu")
POOLED_WIDTH = 1280  # SDXL's: its model class counts on it
ONE_LAYER = {"num_res_blocks": [1, 1], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1]}
WIDTHS_OF_PROMPTS = ("context_dim", "caption_channels", "cond_seq_dim", "text_dim")
Conditioning = list[list[Any]]
Latent = dict[str, Any]


def sd15(*, in_channels: int = 4, seed: int = 0) -> ModelPatcher:
    """SD1.5-shaped: 12 input blocks on 4 levels, 16 cross-attention layers, convolutions around the transformers."""
    config = supported_models.SD15(_unet_config(in_channels, channel_mult=[1, 1, 2, 2], depths=[1, 1, 1, 0]))
    config.unet_config["num_heads"] = 4
    return _patcher(config.get_model({}, device=CPU), seed)


def narrow_sd15(*, seed: int = 0) -> ModelPatcher:
    """All of SD1.5's layers, a tenth as wide: for networks that are made for SD1.5."""
    config = supported_models.SD15(_unet_config(4, channel_mult=[1, 2, 4, 4], depths=[1, 1, 1, 0]))
    config.unet_config["num_heads"] = 4
    return _patcher(config.get_model({}, device=CPU), seed)


def small_unet(
    *, in_channels: int = 4, weights: torch.dtype = torch.float32, compute: torch.dtype | None = None, seed: int = 0
) -> ModelPatcher:
    """SD1.5-shaped, with one layer on each of two levels (4 input blocks): for tests that pay by the block.

    Where `compute` is given, `weights` are only stored in their number format, and cast to that one when used.
    """
    config = supported_models.SD15(_unet_config(in_channels, channel_mult=[1, 2], depths=[1, 1], **ONE_LAYER))
    config.unet_config["num_heads"] = 4
    config.set_inference_dtype(weights, compute)
    return _patcher(config.get_model({}, device=CPU), seed)


def small_unclip(*, seed: int = 0) -> ModelPatcher:
    """As `small_unet`, made to see a picture besides the prompt, as SD2.1 unCLIP is."""
    unet_config = _unet_config(4, channel_mult=[1, 2], depths=[1, 1], use_linear_in_transformer=True, **ONE_LAYER)
    config = supported_models.SD21UnclipL(unet_config | {"adm_in_channels": 2 * 768, "num_classes": "sequential"})
    config.unet_config["num_head_channels"] = 16
    return _patcher(config.get_model({}, device=CPU), seed)


def sd15_inpainting(*, seed: int = 0) -> ModelPatcher:
    """An SD1.5-shaped inpainting checkpoint: the mask and the masked picture are five further input channels."""
    return sd15(in_channels=9, seed=seed)


def sd2(*, seed: int = 0) -> ModelPatcher:
    """SD2-shaped: as SD1.5, with v-prediction and linear layers around the transformers."""
    config = supported_models.SD20(
        _unet_config(4, channel_mult=[1, 1, 2, 2], depths=[1, 1, 1, 0], use_linear_in_transformer=True)
    )
    config.unet_config["num_head_channels"] = 16
    tells_v_prediction = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
    return _patcher(config.get_model(tells_v_prediction, device=CPU), seed)


def sdxl(*, seed: int = 0) -> ModelPatcher:
    """SDXL-shaped: 9 input blocks on 3 levels, several transformer blocks a layer, pooled prompt, size conditioning."""
    unet_config = _unet_config(4, channel_mult=[1, 1, 2], depths=[0, 2, 3], use_linear_in_transformer=True)
    unet_config |= {"adm_in_channels": POOLED_WIDTH + 6 * 256, "num_classes": "sequential"}
    config = supported_models.SDXL(unet_config)
    config.unet_config["num_head_channels"] = 16
    return _patcher(config.get_model({}, device=CPU), seed)


def pixart_alpha(*, seed: int = 0) -> ModelPatcher:
    """PixArt-alpha-shaped: a diffusion transformer with cross-attention and size conditioning."""
    return _pixart(supported_models.PixArtAlpha, seed, micro_condition=True, pe_interpolation=2)


def pixart_sigma(*, seed: int = 0) -> ModelPatcher:
    """PixArt-sigma-shaped: a diffusion transformer with cross-attention, without size conditioning."""
    return _pixart(supported_models.PixArtSigma, seed, micro_condition=False, pe_interpolation=None)


def auraflow(*, seed: int = 0) -> ModelPatcher:
    """A diffusion transformer without cross-attention (text and picture share one attention), trained as a flow."""
    config = supported_models.AuraFlow(
        {
            "in_channels": 4,
            "out_channels": 4,
            "patch_size": 2,
            "dim": 64,
            "n_layers": 2,
            "n_double_layers": 1,
            "n_heads": 4,
            "global_conddim": 64,
            "cond_seq_dim": 16,
            "max_seq": 32 * 32,
            "dtype": torch.float32,
        }
    )
    return _patcher(config.get_model({}, device=CPU), seed)


def wan(*, seed: int = 0) -> ModelPatcher:
    """WAN-2.1-shaped: a diffusion transformer whose latent is a video, of five dimensions."""
    config = supported_models.WAN21_T2V(
        {
            "image_model": "wan2.1",
            "model_type": "t2v",
            "in_dim": 16,
            "out_dim": 16,
            "dim": 48,
            "ffn_dim": 64,
            "freq_dim": 32,
            "text_dim": 24,
            "num_heads": 2,
            "num_layers": 2,
            "dtype": torch.float32,
        }
    )
    return _patcher(config.get_model({}, device=CPU), seed)


def ltxav(*, seed: int = 0) -> ModelPatcher:
    """LTX-2-shaped: a diffusion transformer whose latent is nested, a video and its sound."""
    config = supported_models.LTXAV(
        {
            "image_model": "ltxav",
            "cross_attention_dim": 32,
            "audio_cross_attention_dim": 16,
            "attention_head_dim": 16,
            "audio_attention_head_dim": 8,
            "num_attention_heads": 2,
            "audio_num_attention_heads": 2,
            "caption_channels": 24,
            "num_layers": 2,
            "connector_attention_head_dim": 12,
            "connector_num_attention_heads": 2,
            "connector_num_layers": 1,
            "dtype": torch.float32,
        }
    )
    return _patcher(config.get_model({}, device=CPU), seed)


def svd(*, seed: int = 0) -> ModelPatcher:
    """SVD-shaped: a U-Net with layers between the frames of a video, which are the pictures of a batch."""
    temporal = {
        "use_temporal_attention": True,
        "use_temporal_resblock": True,
        "extra_ff_mix_layer": True,
        "use_spatial_context": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.0,
        "video_kernel_size": [3, 1, 1],
        "use_linear_in_transformer": True,
    }
    unet_config = _unet_config(8, channel_mult=[1, 2], depths=[1, 1], **ONE_LAYER, **temporal)
    config = supported_models.SVD_img2vid(unet_config | {"adm_in_channels": 768, "num_classes": "sequential"})
    config.unet_config["num_head_channels"] = 16
    return _patcher(config.get_model({}, device=CPU), seed)


def lcm(*, seed: int = 0) -> ModelPatcher:
    """An SD1.5-shaped model with distilled sampling, set as users set it: by the stock ModelSamplingDiscrete node."""
    return ModelSamplingDiscrete().patch(sd15(seed=seed), "lcm", zsnr=False)[0]


UNETS: dict[str, Callable[..., ModelPatcher]] = {"sd15": sd15, "sd2": sd2, "sdxl": sdxl}
TRANSFORMERS: dict[str, Callable[..., ModelPatcher]] = {"pixart_alpha": pixart_alpha, "pixart_sigma": pixart_sigma}
MODELS = UNETS | TRANSFORMERS


def is_transformer(model: ModelPatcher) -> bool:
    """Whether the model is a diffusion transformer (PixArt), which takes larger latents than a U-Net here."""
    return hasattr(model.model.diffusion_model, "y_embedder")


def conditioning(model: ModelPatcher, *, tokens: int = 7, seed: int = 1, **values: Any) -> Conditioning:
    """A random prompt of `tokens` tokens as a CONDITIONING that fits the model; `values` go into its dictionary."""
    unet_config = model.model.model_config.unet_config
    width = next(unet_config[key] for key in WIDTHS_OF_PROMPTS if key in unet_config)
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randn(1, tokens, width, generator=generator)
    pooled = {}
    if unet_config.get("adm_in_channels"):
        pooled["pooled_output"] = torch.randn(1, POOLED_WIDTH, generator=generator)
    return [[prompt, pooled | values]]


def latent(model: ModelPatcher, height: int = 0, width: int = 0, *, batch: int = 1, seed: int | None = None) -> Latent:
    """A LATENT: empty without a seed, a random picture with one. Sides of 0 are the smallest that suit the model.

    Of a video it has two frames; where its sound belongs to it, some of that.
    """
    latent_format = model.model.latent_format
    is_video = latent_format.latent_dimensions == 3
    smallest = 68 if is_transformer(model) else 8 if is_video else 16
    shape = (batch, latent_format.latent_channels, *[2] * is_video, height or smallest, width or smallest)
    samples = torch.zeros(shape) if seed is None else torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if isinstance(latent_format, comfy.latent_formats.LTXAV):
        samples = NestedTensor([samples, torch.zeros(batch, 8, 5, 16)])
    return {"samples": samples}


def sampler_inputs(model: ModelPatcher, **given: Any) -> dict[str, Any]:
    """The stock KSampler's inputs, small, with `given` over them."""
    defaults = {
        "seed": 7,
        "steps": 6,
        "cfg": 5.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "positive": conditioning(model, seed=1),
        "negative": conditioning(model, seed=2),
        "latent_image": latent(model),
        "denoise": 1.0,
    }
    unknown = given.keys() - defaults.keys()
    if unknown:
        raise TypeError(f"The KSampler has no input {', '.join(sorted(unknown))}.")
    return {"model": model} | defaults | given


def stock_sample(model: ModelPatcher, **given: Any) -> torch.Tensor:
    """The latent of the stock KSampler node; inputs left out are those of `sampler_inputs`."""
    return nodes.KSampler().sample(**sampler_inputs(model, **given))[0]["samples"]


def _unet_config(in_channels: int, *, channel_mult: list[int], depths: list[int], **other: Any) -> dict[str, Any]:
    return {
        "image_size": 32,
        "in_channels": in_channels,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [2] * len(channel_mult),
        "channel_mult": channel_mult,
        "transformer_depth": [depth for depth in depths for _ in range(2)],
        "transformer_depth_output": [depth for depth in depths for _ in range(3)],
        "transformer_depth_middle": max(1, depths[-1]),
        "use_linear_in_transformer": False,
        "context_dim": 16,
        "adm_in_channels": None,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_temporal_attention": False,
        "dtype": torch.float32,
    } | other


def _pixart(family: type, seed: int, *, micro_condition: bool, pe_interpolation: float | None) -> ModelPatcher:
    config = family(
        {
            "input_size": 32,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 48,
            "depth": 2,
            "num_heads": 2,
            "caption_channels": 24,
            "model_max_length": 20,
            "micro_condition": micro_condition,
            "pe_interpolation": pe_interpolation,
            "pe_precision": None,
            "dtype": torch.float32,
        }
    )
    return _patcher(config.get_model({}, device=CPU), seed)


def _patcher(model: torch.nn.Module, seed: int) -> ModelPatcher:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.diffusion_model.named_parameters():
        weight.data.copy_(_random_weight(name, weight.shape, generator))
    return ModelPatcher(model, load_device=CPU, offload_device=CPU)


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    return _gain(name) * values / math.sqrt(math.prod(shape[1:]))


def _gain(name: str) -> float:
    if "attn2.to_out" in name or "cross_attn.proj" in name:
        return 3.0  # attention over a handful of random tokens averages them away: raise what is left
    if name.startswith(("out.2", "final_layer.linear")):
        return 0.3  # or rounding errors would grow from step to step as the picture does
    return 1.0
