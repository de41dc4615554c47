"""What users combine PostDiff with, tiny and with random weights, for the SD1.5-shaped model.

A companion takes a KSampler's inputs and gives them back with itself added: on the model, or on the prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.gligen
import comfy.hooks
import comfy.ops
import comfy.sd
import comfy.t2i_adapter.adapter
import nodes as comfy_nodes
import torch
from comfy.ldm.modules.attention import SpatialTransformer, optimized_attention
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_freelunch import FreeU
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance

Inputs = dict[str, Any]
CPU = torch.device("cpu")
BLOCKS = ("input", "middle", "output")


def controlnet(inputs: Inputs) -> Inputs:
    """A ControlNet on both prompts; it adds to the middle block and to every skip connection."""
    config = dict(inputs["model"].model.model_config.unet_config)
    config.pop("out_channels")
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, operations=comfy.ops.disable_weight_init, device=CPU
    )
    fill(network)
    return _with_control(inputs, comfy.controlnet.ControlNet(network, load_device=CPU))


def t2i_adapter(inputs: Inputs) -> Inputs:
    """A T2I-Adapter on both prompts; it adds to one input block of each level."""
    network = comfy.t2i_adapter.adapter.Adapter_light(channels=[32, 32, 64, 64], nums_rb=1, cin=3 * 8 * 8)
    fill(network)
    return _with_control(inputs, comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", device=CPU))


def lora(inputs: Inputs) -> Inputs:
    """A LoRA on all self- and cross-attention of the model."""
    model, _ = comfy.sd.load_lora_for_models(inputs["model"], None, lora_weights(inputs["model"]), 1.0, 0.0)
    return inputs | {"model": model}


def lora_hooks(inputs: Inputs) -> Inputs:
    """A LoRA that acts on the positive prompt only: the host swaps weights between two calls of the model."""
    hooks = comfy.hooks.create_hook_lora(lora_weights(inputs["model"]), 1.0, 0.0)
    return inputs | {"positive": comfy.hooks.set_hooks_for_conditioning(inputs["positive"], hooks)}


def freeu(inputs: Inputs) -> Inputs:
    """FreeU, which changes features in place where skip connections join."""
    return inputs | {"model": FreeU.execute(inputs["model"], 1.1, 1.2, 0.9, 0.2).args[0]}


def pag(inputs: Inputs) -> Inputs:
    """Perturbed-attention guidance: a further pass of the positive prompt in every evaluation."""
    return inputs | {"model": PerturbedAttentionGuidance.execute(inputs["model"], 2.0).args[0]}


def sag(inputs: Inputs) -> Inputs:
    """Self-attention guidance: a further pass of the negative prompt in every evaluation."""
    return inputs | {"model": SelfAttentionGuidance.execute(inputs["model"], 0.5, 2.0).args[0]}


def ip_adapter(inputs: Inputs) -> Inputs:
    """As IPAdapter does: every cross-attention is replaced by one that also looks at a picture's tokens."""
    model = inputs["model"].clone()
    generator = torch.Generator().manual_seed(11)
    for kind, block, index, transformer in transformers(model):
        width = transformer.transformer_blocks[index].attn2.to_k.out_features
        keys, values = 2 * torch.randn(2, 1, 4, width, generator=generator)

        def attend(q, k, v, extra_options, keys=keys, values=values):
            heads = extra_options["n_heads"]
            of_text = optimized_attention(q, k, v, heads)
            rows = (q.shape[0], -1, -1)
            return of_text + optimized_attention(q, keys.expand(rows), values.expand(rows), heads)

        model.set_model_attn2_replace(attend, kind, block, index)
    return inputs | {"model": model}


def gligen(inputs: Inputs) -> Inputs:
    """A GLIGEN box on the positive prompt; it finds its module by the number of the transformer that runs."""
    key_width = 16
    modules = []
    for _, _, _, transformer in transformers(inputs["model"]):
        width = transformer.transformer_blocks[0].attn1.to_q.in_features
        modules.append(comfy.gligen.GatedSelfAttentionDense(width, key_width, 4, width // 4))
    network = comfy.gligen.Gligen(modules, comfy.gligen.PositionNet(key_width, key_width), key_width)
    fill(network)
    patcher = ModelPatcher(network, load_device=CPU, offload_device=CPU)
    embedding = torch.randn(1, key_width, generator=torch.Generator().manual_seed(12))
    boxed = {"gligen": ("position", patcher, [(embedding, 8, 10, 4, 2)])}
    return inputs | {"positive": [[prompt, values | boxed] for prompt, values in inputs["positive"]]}


def regions(inputs: Inputs) -> Inputs:
    """Two more positive prompts, for a box and under a mask: more rows than a pair, of two sizes."""
    ((prompt, values),) = inputs["positive"]
    boxed = [prompt.roll(1, -1), values | {"area": (8, 12, 4, 2), "strength": 1.5}]
    masked = [prompt.roll(2, -1), values | {"mask": torch.linspace(0, 1, 16).expand(1, 16, 16), "mask_strength": 0.8}]
    return inputs | {"positive": [*inputs["positive"], boxed, masked]}


COMPANIONS: dict[str, Callable[[Inputs], Inputs]] = {
    companion.__name__: companion
    for companion in (controlnet, t2i_adapter, lora, lora_hooks, freeu, pag, sag, ip_adapter, gligen)
}
ROWS_OF_THEIR_OWN = {"pag": 1, "sag": 1}  # rows a picture takes in every evaluation beside the guider's


def transformers(model: ModelPatcher) -> list[tuple[str, int, int, SpatialTransformer]]:
    """Kind and number of the block, number of the transformer block, and layer, in the order they run."""
    unet = model.model.diffusion_model
    places = [("input", number, block) for number, block in enumerate(unet.input_blocks)]
    places += [("middle", 0, unet.middle_block)]
    places += [("output", number, block) for number, block in enumerate(unet.output_blocks)]
    return [
        (kind, number, index, layer)
        for kind, number, block in places
        for layer in block
        if isinstance(layer, SpatialTransformer)
        for index in range(len(layer.transformer_blocks))
    ]


def lora_weights(model: ModelPatcher) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 in the format without any key names of its own."""
    generator = torch.Generator().manual_seed(13)
    weights = {}
    for name, weight in model.model.state_dict().items():
        if name.startswith("diffusion_model.") and (".attn1.to_q." in name or ".attn2.to_k." in name):
            base = name.removesuffix(".weight")
            weights[f"{base}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=generator) * 0.3
            weights[f"{base}.lora_up.weight"] = torch.randn(weight.shape[0], 2, generator=generator) * 0.3
    return weights


def fill(network: torch.nn.Module, seed: int = 10) -> None:
    """Give a network small random weights that let signals through."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in network.named_parameters():
        values = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            values *= 0.7 / math.sqrt(math.prod(weight.shape[1:]))
        elif name.endswith("weight"):
            values = torch.ones_like(values)
        else:
            values *= 0.1
        weight.data = values


def _with_control(inputs: Inputs, control: comfy.controlnet.ControlBase) -> Inputs:
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(14))
    positive, negative = comfy_nodes.ControlNetApplyAdvanced().apply_controlnet(
        inputs["positive"], inputs["negative"], control, hint, 0.5, 0.0, 1.0
    )
    return inputs | {"positive": positive, "negative": negative}
