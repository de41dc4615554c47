"""Model files in the layouts that users have, with few and random weights: what the shipped workflows load in tests.

As small as ComfyUI's detection lets them be: it knows SD1.5, SDXL and PixArt by their widths, so only layers are left
out. Text encoders have the real tokens and widths; where all their layers would be gigabytes, they have those of
text_encoders.py, and a loader must tell ComfyUI so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.clip_model
import comfy.lora
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models as supported_models
import comfy.text_encoders.t5
import comfy.utils
import torch
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

from companions import fill
from text_encoders import LIGHT

CPU = torch.device("cpu")
Weights = dict[str, torch.Tensor]

PIXART_DEPTH, PIXART_WIDTH = 1, 1152
SHARED = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}
SD15_UNET = {
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "adm_in_channels": None,
}
SDXL_UNET = {  # the depths of KOALA-700M, a small SDXL
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}


def sd15_checkpoint() -> Weights:
    """U-Net, full CLIP-L and a small autoencoder, in the original layout."""
    unet = sd15_model().diffusion_model
    parts = {
        "model.diffusion_model.": filled(unet),
        "cond_stage_model.transformer.": clip_text_model("sd1_clip_config.json"),
        "first_stage_model.": filled(TAESD(latent_channels=4)),
    }
    return joined(parts)


def sdxl_checkpoint() -> Weights:
    """U-Net, both CLIPs with few layers, and a small autoencoder, in the original layout."""
    config = supported_models.SDXL(SHARED | SDXL_UNET)
    config.unet_config["num_head_channels"] = 64
    layers = LIGHT["clip_g_model_config"]["num_hidden_layers"]
    clip_g = clip_text_model("clip_config_bigg.json", layers=layers)
    parts = {
        "model.diffusion_model.": filled(config.get_model({}, device=CPU).diffusion_model),
        "conditioner.embedders.0.transformer.": clip_text_model("sd1_clip_config.json", layers=layers),
        "conditioner.embedders.1.model.": open_clip_layout(clip_g, layers=layers),
        "first_stage_model.": filled(TAESD(latent_channels=4)),
    }
    return joined(parts)


def pixart_alpha() -> Weights:
    """A transformer of one block, in the layout of diffusers."""
    weights = filled(
        PixArtMS(
            input_size=128,
            patch_size=2,
            in_channels=4,
            hidden_size=PIXART_WIDTH,
            depth=PIXART_DEPTH,
            num_heads=16,
            micro_condition=True,
            operations=comfy.ops.disable_weight_init,
            dtype=torch.float32,
        )
    )
    names = comfy.utils.pixart_to_diffusers({"depth": PIXART_DEPTH, "hidden_size": PIXART_WIDTH})
    named = {}
    for name, place in names.items():
        if isinstance(place, str):
            if place in weights:
                named[name] = weights[place]
        else:
            place, (dim, start, length) = place
            named[name] = weights[place].narrow(dim, start, length).contiguous()
    return named


def t5() -> Weights:
    """T5-XXL's tokens, one light layer, and the one weight of the 24th that ComfyUI knows the model by."""
    config = host_config("text_encoders/t5_config_xxl.json") | LIGHT["t5xxl_model_config"]
    network = comfy.text_encoders.t5.T5(config, torch.float16, CPU, comfy.ops.disable_weight_init)
    known_by = {"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": torch.zeros(10240, 1, dtype=torch.float16)}
    return filled(network) | known_by


def vae() -> Weights:
    return filled(TAESD(latent_channels=4))


def lora() -> Weights:
    """A LoRA of rank 2 on every layer of the SD1.5 U-Net that carries kohya's names."""
    names = comfy.lora.model_lora_keys_unet(sd15_model())
    unet = sd15_model().diffusion_model
    shapes = {f"diffusion_model.{name}": weight.shape for name, weight in unet.state_dict().items()}
    generator = torch.Generator().manual_seed(15)
    weights = {}
    for name, target in names.items():
        if name.startswith("lora_unet_") and "_attn" in name and len(shapes[target]) == 2:
            rows, columns = shapes[target]
            weights[f"{name}.lora_down.weight"] = torch.randn(2, columns, generator=generator) * 0.05
            weights[f"{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.05
            weights[f"{name}.alpha"] = torch.tensor(2.0)
    return weights


def controlnet() -> Weights:
    """A ControlNet for the SD1.5 stand-in, in the original layout."""
    config = dict(sd15_model().model_config.unet_config)
    config.pop("out_channels")
    operations = comfy.ops.disable_weight_init
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3, operations=operations, device=CPU)
    return joined({"control_model.": filled(network)})


# Where each file that a workflow names goes under models/, and what makes it.
FILES: dict[str, Callable[[], Weights]] = {
    "checkpoints/DreamShaper_7_pruned.safetensors": sd15_checkpoint,
    "checkpoints/sd_xl_base_1.0.safetensors": sdxl_checkpoint,
    "diffusion_models/PixArt-XL-2-1024-MS.safetensors": pixart_alpha,
    "text_encoders/t5xxl_fp16.safetensors": t5,
    "vae/vae-ft-mse-840000-ema-pruned.safetensors": vae,
    "loras/lcm-lora-sdv1-5.safetensors": lora,
    "loras/blindbox_V1Mix.safetensors": lora,
    "controlnet/control_v11p_sd15_canny_fp16.safetensors": controlnet,
}


def write(folder: Path) -> None:
    """Every file of FILES, in fp16, under a folder that is laid out as ComfyUI's models/."""
    for name, make in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: weight.to(torch.float16) for key, weight in make().items()}, path)


def sd15_model() -> Any:
    config = supported_models.SD15(SHARED | SD15_UNET)
    config.unet_config["num_heads"] = 8
    return config.get_model({}, device=CPU)


def clip_text_model(config_file: str, *, layers: int | None = None) -> Weights:
    """A CLIP whose tokens differ and whose layers let them through."""
    config = host_config(config_file)
    if layers is not None:
        config["num_hidden_layers"] = layers
    network = comfy.clip_model.CLIPTextModel(config, torch.float16, CPU, comfy.ops.disable_weight_init)
    generator = torch.Generator().manual_seed(16)
    weights = {name: torch.zeros_like(weight) for name, weight in network.state_dict().items()}
    for name, weight in weights.items():
        if "layer_norm" in name and name.endswith("weight"):
            weight.fill_(1.0)
        elif "embedding" in name or "text_projection" in name:
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return weights


def open_clip_layout(weights: Weights, *, layers: int) -> Weights:
    """A CLIP under OpenCLIP's names, as SDXL checkpoints hold it."""
    found = {
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "text_projection": weights["text_projection.weight"].T.contiguous(),
        "ln_final.weight": weights["text_model.final_layer_norm.weight"],
        "ln_final.bias": weights["text_model.final_layer_norm.bias"],
    }
    same = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(layers):
        block, at = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
        for end in ("weight", "bias"):
            rows = [weights[f"{at}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            found[f"{block}.attn.in_proj_{end}"] = torch.cat(rows)
            found[f"{block}.attn.out_proj.{end}"] = weights[f"{at}.self_attn.out_proj.{end}"]
            for name, source in same.items():
                found[f"{block}.{name}.{end}"] = weights[f"{at}.{source}.{end}"]
    return found


def filled(network: torch.nn.Module) -> Weights:
    fill(network)
    return dict(network.state_dict())


def joined(parts: dict[str, Weights]) -> Weights:
    return {prefix + name: weight.contiguous() for prefix, part in parts.items() for name, weight in part.items()}


def host_config(name: str) -> dict[str, Any]:
    return json.loads((Path(comfy.sd1_clip.__file__).parent / name).read_text(encoding="utf-8"))
