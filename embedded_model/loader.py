"""Load the embedded model as the MODEL, CLIP and VAE that stock ComfyUI nodes expect."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from .architecture import DOWNSCALE, LATENT_CHANNELS, UNET_HEADS, Autoencoder, TextEncoder, tokenizer_class

WEIGHTS = Path(__file__).parent / "postdiff_emoji.safetensors"
METADATA_KEY = "postdiff_embedded_model"
RECOMMENDED = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "width": 256, "height": 256}

UNET_PREFIX = "model.diffusion_model."
TEXT_PREFIX = "cond_stage_model."
VAE_PREFIX = "first_stage_model."


class EmbeddedModelError(RuntimeError):
    """The weights are missing or damaged."""


class EmojiLatent(comfy.latent_formats.LatentFormat):
    """Latents of unit variance; `load_embedded_model` adds the preview colours recorded with the weights."""

    latent_channels = LATENT_CHANNELS
    spacial_downscale_ratio = DOWNSCALE
    scale_factor = 1.0


class EmojiModelConfig(comfy.supported_models_base.BASE):
    """What `comfy.supported_models` would hold for this model, had ComfyUI to detect it."""

    unet_extra_config = UNET_HEADS
    latent_format = EmojiLatent
    sampling_settings = {"shift": 1.0}
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]
    memory_usage_factor = 1.0
    text_encoder_key_prefix = [TEXT_PREFIX]
    vae_key_prefix = [VAE_PREFIX]
    postdiff_preset = "embedded"

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.FLOW

    def inpaint_model(self):
        return False  # BASE takes any model of more than four latent channels for an inpainting model


class EmojiVAE(comfy.sd.VAE):
    """ComfyUI's VAE around this project's autoencoder, which its detection cannot know."""

    def __init__(self, state_dict: dict[str, torch.Tensor]):
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)})  # the smallest stock VAE, for its attributes
        network = Autoencoder(comfy.ops.disable_weight_init).eval().requires_grad_(False)
        network.load_state_dict(state_dict)
        self.first_stage_model = network.to(self.vae_dtype)
        self.latent_channels = LATENT_CHANNELS
        self.downscale_ratio = self.upscale_ratio = DOWNSCALE
        self.memory_used_encode = lambda shape, dtype: 64 * shape[2] * shape[3] * _size(dtype)
        self.memory_used_decode = lambda shape, dtype: 64 * shape[2] * shape[3] * DOWNSCALE**2 * _size(dtype)
        comfy.model_management.archive_model_dtypes(network)
        self.patcher = ModelPatcher(network, self.device, comfy.model_management.vae_offload_device())
        self.size = None
        self.model_size()


def _size(dtype: torch.dtype) -> int:
    return comfy.model_management.dtype_size(dtype)


def load_embedded_model(
    path: Path = WEIGHTS, *, dtype: torch.dtype | None = None, disable_dynamic: bool = False
) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """The embedded text-to-image model: 256-pixel emoji from prompts such as "noto red apple".

    `dtype` is what the denoiser computes in, by default what ComfyUI chooses for the device. `disable_dynamic` is the
    host's: load all weights at once, also where it would bring in each as it is used. Raises EmbeddedModelError when
    the file is missing, truncated or not the one its checksum was recorded for.
    """
    state_dict, metadata = _read(Path(path))
    model = _load_model(take(state_dict, UNET_PREFIX), metadata, dtype, disable_dynamic)
    clip = _load_clip(take(state_dict, TEXT_PREFIX), metadata, disable_dynamic)
    vae = EmojiVAE(take(state_dict, VAE_PREFIX))
    for part, patcher in enumerate((model, clip.patcher, vae.patcher)):
        # Compiling, hooks and a second GPU need the model anew (comfy/model_patcher.py, ModelPatcher.clone).
        patcher.cached_patcher_init = (_reload, (path, part, dtype))
    return model, clip, vae


def _reload(path: Path, part: int, dtype: torch.dtype | None, disable_dynamic: bool = False) -> ModelPatcher:
    model, clip, vae = load_embedded_model(path, dtype=dtype, disable_dynamic=disable_dynamic)
    return (model, clip.patcher, vae.patcher)[part]


def checksum_file(weights: Path) -> Path:
    return weights.with_suffix(".sha256")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    remedy = "Restore it with `git checkout -- embedded_model` in the node pack's folder, or install the pack again."
    if not path.is_file():
        raise EmbeddedModelError(f"The embedded model's weights are missing: {path}. {remedy}")
    recorded = checksum_file(path)
    if not recorded.is_file():
        raise EmbeddedModelError(f"The checksum of the embedded model's weights is missing: {recorded}. {remedy}")
    expected, actual = next(iter(recorded.read_text().split()), "nothing"), sha256(path)
    if actual != expected:
        raise EmbeddedModelError(
            f"The embedded model's weights are damaged: {path} ({path.stat().st_size:,} bytes) has sha256 {actual}, "
            f"{recorded.name} says {expected}. {remedy}"
        )
    try:
        state_dict, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
        return state_dict, json.loads(metadata[METADATA_KEY])
    except Exception as error:  # whatever a file can hold whose checksum was recorded after it was damaged
        raise EmbeddedModelError(
            f"The embedded model's weights cannot be read: {path} ({type(error).__name__}: {error}). {remedy}"
        ) from error


def take(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}


def _load_model(
    state_dict: dict[str, torch.Tensor], metadata: dict, dtype: torch.dtype | None, disable_dynamic: bool
) -> ModelPatcher:
    management = comfy.model_management
    device, offload_device = management.get_torch_device(), management.unet_offload_device()
    config = EmojiModelConfig(metadata["unet"])
    config.latent_format.latent_rgb_factors = metadata["latent_rgb_factors"]
    config.latent_format.latent_rgb_factors_bias = metadata["latent_rgb_factors_bias"]
    stored = dtype or management.unet_dtype(
        device=device,
        model_params=sum(tensor.numel() for tensor in state_dict.values()),
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=torch.float16,
    )
    cast_to = None if dtype else management.unet_manual_cast(stored, device, config.supported_inference_dtypes)
    config.set_inference_dtype(stored, cast_to)
    model = config.get_model(state_dict, device=offload_device)
    patcher_class = ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = patcher_class(model, load_device=device, offload_device=offload_device)
    model.load_model_weights(state_dict, assign=patcher.is_dynamic())
    return patcher


def _load_clip(state_dict: dict[str, torch.Tensor], metadata: dict, disable_dynamic: bool) -> comfy.sd.CLIP:
    config = metadata["text_encoder"]
    tokenizer = tokenizer_class(metadata["words"], config["max_position_embeddings"], config["hidden_size"])
    target = comfy.supported_models_base.ClipTarget(tokenizer, TextEncoder)
    target.params = {"config": config}
    parameters = sum(tensor.numel() for tensor in state_dict.values())
    return comfy.sd.CLIP(target, parameters=parameters, state_dict=state_dict, disable_dynamic=disable_dynamic)
