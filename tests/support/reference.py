"""The four techniques written out once more in plain torch, for comparison: section 2 of the paper and nothing else.

The denoising loop, the U-Net's and the transformer's forward passes are spelled out here on the model's layers; no
wrapper, patch or sampler of the host runs, and nothing of the pack is imported. Only text-to-image from one prompt a
branch is covered, with the samplers euler and lcm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.samplers
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, Upsample
from comfy.ldm.pixart.pixartms import get_2d_sincos_pos_embed_torch
from comfy.model_patcher import ModelPatcher

Branch = str  # "positive" or "negative"
Grid = tuple[int, int]
Compute = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Techniques:
    """What to leave out; the defaults leave out nothing."""

    low_res_scale: float = 1.0
    low_res_until: float = 0.0
    upscale_method: str = "bilinear"
    switch: str = "paper"
    interval: int = 1
    depth: int = 1
    deep_start: float = 0.0
    deep_end: float = 1.0
    cross_attn_start: float = 1.0
    mode: str = "cond"
    cutoff_start: float = 1.0


EVERYTHING = Techniques(
    low_res_scale=0.5,
    low_res_until=0.4,
    interval=2,
    depth=2,
    cross_attn_start=0.6,
    cutoff_start=0.8,
    mode="average",
)
WITHOUT_DEEP_CACHE = replace(EVERYTHING, interval=1)  # for transformers


@dataclass
class CrossAttention:
    """The outputs of the cross-attention layers, kept for the steps from c on."""

    mode: str
    guidance: float
    reusing: bool = False
    alone: bool = False
    branch: Branch = "positive"
    outputs: dict[tuple[Branch, str], tuple[torch.Tensor, Grid]] = field(default_factory=dict)

    def __call__(self, layer: str, grid: Grid, compute: Compute) -> torch.Tensor:
        """What `layer` gives for a picture of `grid` tokens."""
        own = (self.branch, layer)
        if not self.reusing or own not in self.outputs:
            self.outputs[own] = compute(), grid
            return self.outputs[own][0]
        output, stored_grid = self._mixed(layer) if self.alone else self.outputs[own]
        return output if stored_grid == grid else resized_tokens(output, stored_grid, grid)

    def _mixed(self, layer: str) -> tuple[torch.Tensor, Grid]:
        positive, grid = self.outputs["positive", layer]
        negative, other_grid = self.outputs.get(("negative", layer), (None, grid))
        if negative is None or self.mode == "cond":
            return positive, grid
        assert grid == other_grid
        if self.mode == "average":
            return (positive + negative) / 2, grid
        if self.mode == "uncond":
            return negative, grid
        assert self.mode == "cfg"
        return negative + self.guidance * (positive - negative), grid


def resized_tokens(tokens: torch.Tensor, old: Grid, new: Grid) -> torch.Tensor:
    """Tokens (rows, height * width, channels) bilinearly from one grid to another."""
    picture = tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *old)
    return F.interpolate(picture, size=new, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


def sample(model: ModelPatcher, techniques: Techniques, *, inputs: dict[str, Any]) -> torch.Tensor:
    """The latent of a run with the KSampler's `inputs` under `techniques`."""
    run = _Run(model, techniques, inputs)
    with torch.inference_mode():
        return run.sample()


class _Run:
    def __init__(self, model: ModelPatcher, techniques: Techniques, inputs: dict[str, Any]):
        self.base = model.model
        self.sampling = model.get_model_object("model_sampling")
        self.techniques = techniques
        self.inputs = inputs
        self.cfg = inputs["cfg"]
        schedule = comfy.samplers.KSampler(
            model, inputs["steps"], model.load_device, inputs["sampler_name"], inputs["scheduler"], inputs["denoise"]
        )
        self.sigmas = schedule.sigmas
        self.total = len(self.sigmas) - 1
        self.cross_attention = CrossAttention(techniques.mode, self.cfg)
        self.deep: dict[Branch, torch.Tensor] = {}
        self.cutoff = self.first_step_past(techniques.cutoff_start)
        self.cross_attn_start = self.first_step_past(techniques.cross_attn_start)
        self.switch = 0
        if techniques.low_res_scale < 1:
            self.switch = min(self.first_step_past(techniques.low_res_until), self.total - 2)

    def first_step_past(self, fraction: float) -> int:
        threshold = self.sampling.percent_to_sigma(fraction)
        if len(self.sampling.sigmas) == 50 and 0 < fraction < 1:  # LCM's timesteps: 999, 979, ..., 19
            threshold = float(self.sampling.sigma(torch.tensor(999 - 980 * fraction)))
        for i in range(self.total):
            if float(self.sigmas[i]) <= threshold * 1.0001:
                return i
        return self.total

    def sample(self) -> torch.Tensor:
        picture = self.inputs["latent_image"]["samples"]
        assert not picture.any(), "The reference covers text-to-image only."
        seed = self.inputs["seed"]
        if self.switch:
            low = self.low_resolution(picture)
            _, x0 = self.denoise(low, seed, range(self.switch))
            x0 = self.base.latent_format.process_out(x0)
            assert self.techniques.upscale_method == "bilinear"
            picture = F.interpolate(x0, size=picture.shape[-2:], mode="bilinear", align_corners=False)
            seed += 1
        result, _ = self.denoise(picture, seed, range(self.switch, self.total))
        return self.base.latent_format.process_out(result)

    def low_resolution(self, picture: torch.Tensor) -> torch.Tensor:
        unet = self.base.diffusion_model
        multiple = 2 ** (len(unet.channel_mult) - 1) // 2 if hasattr(unet, "channel_mult") else unet.patch_size
        height, width = picture.shape[-2:]
        beta = self.techniques.low_res_scale
        smaller = itertools.product(range(multiple, height + 1, multiple), range(multiple, width + 1, multiple))

        def off(size: tuple[int, int]) -> float:
            tall, broad = size[0] / height, size[1] / width
            squashed = max(tall / broad, broad / tall)
            scaled = max((tall * broad) ** 0.5 / beta, beta / (tall * broad) ** 0.5)
            return squashed**3 * scaled

        sides = min(smaller, key=off)
        return picture.new_zeros(*picture.shape[:2], *sides)

    def denoise(self, picture: torch.Tensor, seed: int, steps: range) -> tuple[torch.Tensor, torch.Tensor]:
        """The sample after `steps`, and the x0 predicted in the last of them, both in the model's latent space."""
        noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
        first = self.sigmas[steps.start]
        starts_from_noise_alone = first > 0.99999 * self.sampling.sigma_max
        scale = torch.sqrt(1 + first**2) if starts_from_noise_alone else first
        x = noise * scale + (self.base.latent_format.process_in(picture) if picture.any() else picture)
        fresh = torch.Generator().manual_seed(seed + 1)  # comfy/k_diffusion/sampling.py, default_noise_sampler
        for i in steps:
            x0 = self.predict_x0(x, i, steps)
            sigma, following = self.sigmas[i], self.sigmas[i + 1]
            if self.inputs["sampler_name"] == "lcm":
                x = x0
                if following > 0:
                    x = x + following * torch.randn(x.shape, generator=fresh)
            else:
                assert self.inputs["sampler_name"] == "euler"
                x = x + (x - x0) / sigma * (following - sigma)
        return x, x0

    def predict_x0(self, x: torch.Tensor, i: int, stage: range) -> torch.Tensor:
        guided = self.cfg != 1 and i < self.cutoff
        self.cross_attention.reusing = i >= self.cross_attn_start
        self.cross_attention.alone = not guided
        positive = self.predict_branch("positive", x, i, stage)
        if not guided:
            return positive
        negative = self.predict_branch("negative", x, i, stage)
        return negative + self.cfg * (positive - negative)

    def predict_branch(self, branch: Branch, x: torch.Tensor, i: int, stage: range) -> torch.Tensor:
        self.cross_attention.branch = branch
        sigma = self.sigmas[i].expand(x.shape[0])
        network = self.base.diffusion_model
        ((prompt, values),) = self.inputs[branch]
        prompt = prompt.expand(x.shape[0], -1, -1)
        time = self.sampling.timestep(sigma).float()
        scaled = x / torch.sqrt(1 + self.sigmas[i] ** 2)
        if hasattr(network, "input_blocks"):
            output = self.unet(branch, scaled, time, prompt, values, i, stage)
        else:
            output = pixart(network, scaled, time, prompt, self.cross_attention)
        return self.sampling.calculate_denoised(sigma, output, x)

    def unet(
        self,
        branch: Branch,
        x: torch.Tensor,
        time: torch.Tensor,
        prompt: torch.Tensor,
        values: dict[str, Any],
        i: int,
        stage: range,
    ) -> torch.Tensor:
        unet = self.base.diffusion_model
        embedding = unet.time_embed(sinusoids(time, unet.model_channels))
        if unet.num_classes is not None:
            height, width = x.shape[-2] * 8, x.shape[-1] * 8
            sizes = sinusoids(torch.tensor([height, width, 0, 0, height, width]), 256).reshape(1, -1)
            vector = torch.cat([values["pooled_output"], sizes], dim=1)
            embedding = embedding + unet.label_emb(vector.expand(x.shape[0], -1))

        def through(name: str, block: torch.nn.Module, h: torch.Tensor, size: Grid | None = None) -> torch.Tensor:
            return unet_block(name, block, h, embedding, prompt, self.cross_attention, size)

        blocks = len(unet.input_blocks)
        state = self.deep_cache_state(i, stage)
        kept = self.techniques.depth if state == "reuse" else blocks
        skips = []
        h = x
        for number, block in enumerate(unet.input_blocks[:kept]):
            h = through(f"input {number}", block, h)
            skips.append(h)
        h = self.deep[branch] if state == "reuse" else through("middle", unet.middle_block, h)
        for number, block in list(enumerate(unet.output_blocks))[blocks - kept :]:
            if state == "refresh" and number == blocks - self.techniques.depth:
                self.deep[branch] = h
            h = torch.cat([h, skips.pop()], dim=1)
            h = through(f"output {number}", block, h, skips[-1].shape[-2:] if skips else None)
        return unet.out(h)

    def deep_cache_state(self, i: int, stage: range) -> str:
        if self.techniques.interval == 1:
            return "off"
        start, end = (self.first_step_past(p) for p in (self.techniques.deep_start, self.techniques.deep_end))
        if not start <= i < end:
            return "off"
        return "reuse" if (i - max(start, stage.start)) % self.techniques.interval else "refresh"


def unet_block(
    name: str,
    block: torch.nn.Module,
    h: torch.Tensor,
    embedding: torch.Tensor,
    prompt: torch.Tensor,
    cross_attention: CrossAttention,
    size: Grid | None,
) -> torch.Tensor:
    """One input, middle or output block; `size` is the one an upsampling at its end aims at."""
    for number, layer in enumerate(block):
        if isinstance(layer, ResBlock):
            shift = layer.emb_layers(embedding)[:, :, None, None]
            h = layer.skip_connection(h) + layer.out_layers(layer.in_layers(h) + shift)
        elif isinstance(layer, SpatialTransformer):
            h = spatial_transformer(f"{name}.{number}", layer, h, prompt, cross_attention)
        elif isinstance(layer, Upsample):
            h = layer.conv(F.interpolate(h, size=size, mode="nearest"))
        else:
            h = layer(h)
    return h


def spatial_transformer(
    name: str, layer: SpatialTransformer, picture: torch.Tensor, prompt: torch.Tensor, cross_attention: CrossAttention
) -> torch.Tensor:
    grid = tuple(picture.shape[-2:])
    h = layer.norm(picture)
    h = layer.proj_in(as_tokens(h)) if layer.use_linear else as_tokens(layer.proj_in(h))
    for number, block in enumerate(layer.transformer_blocks):
        n = block.norm1(h)
        h = h + attention(block.attn1, n, n)

        def compute(block: torch.nn.Module = block, h: torch.Tensor = h) -> torch.Tensor:
            return attention(block.attn2, block.norm2(h), prompt)

        h = h + cross_attention(f"{name}.{number}", grid, compute)
        h = h + block.ff(block.norm3(h))
    h = as_picture(layer.proj_out(h), grid) if layer.use_linear else layer.proj_out(as_picture(h, grid))
    return h + picture


def attention(layer: torch.nn.Module, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Multi-head attention with the projections of the host's `CrossAttention`."""
    return layer.to_out(heads_attend(layer.to_q(x), layer.to_k(context), layer.to_v(context), layer.heads))


def heads_attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def pixart(
    network: torch.nn.Module,
    x: torch.Tensor,
    time: torch.Tensor,
    prompt: torch.Tensor,
    cross_attention: CrossAttention,
) -> torch.Tensor:
    rows, _, height, width = x.shape
    patch = network.patch_size
    grid = (height // patch, width // patch)
    embedding = network.t_embedder.mlp(sinusoids(time, network.t_embedder.frequency_embedding_size))
    if network.micro_conditioning:
        sizes = [network.csize_embedder.mlp(sinusoids(torch.tensor([side * 8.0]), 256)) for side in (height, width)]
        ratio = network.ar_embedder.mlp(sinusoids(torch.tensor([height / width]), 256))
        embedding = embedding + torch.cat([*sizes, ratio], dim=1)
    modulation = network.t_block(embedding).reshape(rows, 6, -1)
    text = network.y_embedder.y_proj(prompt)
    h = as_tokens(network.x_embedder.proj(x)) + pixart_positions(network, height, width)
    for number, block in enumerate(network.blocks):
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (block.scale_shift_table + modulation).chunk(6, dim=1)
        q, k, v = block.attn.qkv(block.norm1(h) * (1 + scale) + shift).chunk(3, dim=-1)
        h = h + gate * block.attn.proj(heads_attend(q, k, v, block.attn.num_heads))

        def compute(cross: torch.nn.Module = block.cross_attn, h: torch.Tensor = h) -> torch.Tensor:
            k, v = cross.kv_linear(text).chunk(2, dim=-1)
            return cross.proj(heads_attend(cross.q_linear(h), k, v, cross.num_heads))

        h = h + cross_attention(f"block {number}", grid, compute)
        h = h + mlp_gate * block.mlp(block.norm2(h) * (1 + mlp_scale) + mlp_shift)
    shift, scale = (network.final_layer.scale_shift_table + embedding[:, None]).chunk(2, dim=1)
    h = network.final_layer.linear(network.final_layer.norm_final(h) * (1 + scale) + shift)
    h = h.reshape(rows, *grid, patch, patch, -1).permute(0, 5, 1, 3, 2, 4).reshape(rows, -1, height, width)
    return h[:, : network.in_channels]


def pixart_positions(network: torch.nn.Module, height: int, width: int) -> torch.Tensor:
    """The host's table: it follows the picture's size, not the techniques."""
    mean_side = (height + width) // 2
    return get_2d_sincos_pos_embed_torch(
        network.hidden_size,
        h=height // network.patch_size,
        w=width // network.patch_size,
        pe_interpolation=network.pe_interpolation or round(mean_side / 64),
        base_size=round(mean_side / 64) * 64 // network.patch_size,
    )


def sinusoids(values: torch.Tensor, width: int) -> torch.Tensor:
    """Sinusoidal embedding: (n,) to (n, width), cosines first."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = values[:, None].float() * frequencies
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def as_tokens(picture: torch.Tensor) -> torch.Tensor:
    return picture.flatten(2).transpose(1, 2)


def as_picture(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *grid)
