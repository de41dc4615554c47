"""What users combine PostDiff with, tiny and with random weights: nodes of the host and networks in the host's classes.

A companion takes a KSampler's inputs and gives them back with itself added: on the model, on the prompts or on the
latent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
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
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_cfg import CFGZeroStar
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from comfy_extras.nodes_hooks import ConditioningSetProperties, CreateHookKeyframesInterpolated, SetHookKeyframes
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_mahiro import Mahiro
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete, RescaleCFG
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_model_merging import ModelMergeBlocks, ModelMergeSimple
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT, SkipLayerGuidanceDiTSimple
from comfy_extras.nodes_tomesd import TomePatchModel
from comfy_extras.nodes_torch_compile import TorchCompileModel

Inputs = dict[str, Any]
Companion = Callable[[Inputs], Inputs]
CPU = torch.device("cpu")
BLOCKS = ("input", "middle", "output")


def nothing(inputs: Inputs) -> Inputs:
    """No companion."""
    return inputs


def both(*companions: Companion) -> Companion:
    """One companion after the other."""

    def add(inputs: Inputs) -> Inputs:
        for companion in companions:
            inputs = companion(inputs)
        return inputs

    return add


def controlnet(
    inputs: Inputs, *, strength: float = 0.5, start: float = 0.0, end: float = 1.0, seed: int = 10
) -> Inputs:
    """A ControlNet on both prompts; it adds to the middle block and to every skip connection."""
    return _with_control(inputs, controlnet_for(inputs["model"], seed), strength, start, end)


def two_controlnets(inputs: Inputs) -> Inputs:
    """A ControlNet after another, of other weights, strength and range."""
    return controlnet(controlnet(inputs), strength=0.3, end=0.6, seed=20)


def controlnet_for_a_while(inputs: Inputs) -> Inputs:
    """A ControlNet in the middle of the run only."""
    return controlnet(inputs, start=0.2, end=0.7)


def controlnet_of_the_positive_prompt(inputs: Inputs) -> Inputs:
    """The old node: it is given the positive prompt, and the host applies it to the negative one too."""
    control = controlnet_for(inputs["model"], 10)
    (positive,) = comfy_nodes.ControlNetApply().apply_controlnet(inputs["positive"], control, hint(inputs), 0.5)
    return inputs | {"positive": positive}


def t2i_adapter(inputs: Inputs) -> Inputs:
    """A T2I-Adapter on both prompts; it adds to one input block of each level."""
    return _with_control(inputs, t2i_adapter_network(), 0.5, 0.0, 1.0)


def lora(inputs: Inputs) -> Inputs:
    """A LoRA on all self- and cross-attention of the model."""
    model, _ = comfy.sd.load_lora_for_models(inputs["model"], None, lora_weights(inputs["model"]), 1.0, 0.0)
    return inputs | {"model": model}


def lora_hooks(inputs: Inputs) -> Inputs:
    """A LoRA that acts on the positive prompt only: the host swaps weights between two calls of the model."""
    hooks = comfy.hooks.create_hook_lora(lora_weights(inputs["model"]), 1.0, 0.0)
    return inputs | {"positive": comfy.hooks.set_hooks_for_conditioning(inputs["positive"], hooks)}


def lora_hooks_with_keyframes(inputs: Inputs) -> Inputs:
    """A LoRA on the positive prompt that fades out in three steps of strength."""
    hooks = comfy.hooks.create_hook_lora(lora_weights(inputs["model"]), 1.0, 0.0)
    (keyframes,) = CreateHookKeyframesInterpolated().create_hook_keyframes(1.0, 0.2, "linear", 0.0, 0.9, 3)
    (hooks,) = SetHookKeyframes().set_hook_keyframes(hooks, keyframes)
    (positive,) = ConditioningSetProperties().set_properties(inputs["positive"], 1.0, "default", hooks=hooks)
    return inputs | {"positive": positive}


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
            of_picture = (tokens.to(q).expand(q.shape[0], -1, -1) for tokens in (keys, values))
            return of_text + optimized_attention(q, *of_picture, heads)

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


def unclip(inputs: Inputs) -> Inputs:
    """An unCLIP picture on the positive prompt, for a model that takes one."""
    embedding = torch.randn(1, 768, generator=torch.Generator().manual_seed(15))
    seen = SimpleNamespace(image_embeds=embedding)
    (positive,) = comfy_nodes.unCLIPConditioning().apply_adm(inputs["positive"], seen, 1.0, 0.1)
    return inputs | {"positive": positive}


# Model patches


def freeu_v2(inputs: Inputs) -> Inputs:
    return inputs | {"model": FreeU_V2.execute(inputs["model"], 1.3, 1.4, 0.9, 0.2).args[0]}


def slg(inputs: Inputs) -> Inputs:
    """Skip-layer guidance: a further pass of the positive prompt without some layers."""
    return inputs | {"model": SkipLayerGuidanceDiT.execute(inputs["model"], 2.0, 0.0, 1.0, "0", "0").args[0]}


def slg_simple(inputs: Inputs) -> Inputs:
    """Skip-layer guidance in the negative prompt's own pass, which is thus a call apart from the positive one's."""
    return inputs | {"model": SkipLayerGuidanceDiTSimple.execute(inputs["model"], 0.0, 1.0, "0", "0").args[0]}


def hypertile(inputs: Inputs) -> Inputs:
    """Self-attention in tiles; a swap size of 1 draws no random numbers."""
    return inputs | {"model": HyperTile.execute(inputs["model"], 32, 1, 0, False)[0]}


def tome(inputs: Inputs) -> Inputs:
    """Similar tokens are merged for self-attention."""
    return inputs | {"model": TomePatchModel.execute(inputs["model"], 0.3).args[0]}


def deep_shrink(inputs: Inputs) -> Inputs:
    """The inner blocks see a smaller picture in the first part of the run."""
    patch = PatchModelAddDownscale.execute(inputs["model"], 1, 2.0, 0.0, 0.7, True, "bicubic", "bicubic")
    return inputs | {"model": patch.args[0]}


def attn2_input_patch(inputs: Inputs) -> Inputs:
    """As nodes for regions do: what cross-attention attends to is changed on its way in."""
    model = inputs["model"].clone()
    model.set_model_attn2_patch(lambda x, context, value, _options: (x, 0.5 * context, value))
    return inputs | {"model": model}


def tiled_diffusion(inputs: Inputs) -> Inputs:
    """As tiled diffusion does: the model is called for one half of the picture after the other."""

    def in_halves(apply_model, given):
        halves = given["input"].chunk(2, dim=-1)
        return torch.cat([apply_model(half, given["timestep"], **given["c"]) for half in halves], dim=-1)

    model = inputs["model"].clone()
    model.set_model_unet_function_wrapper(in_halves)
    return inputs | {"model": model}


def tiles_in_one_batch(inputs: Inputs) -> Inputs:
    """As tiled diffusion does that calls the model once: all conditionings of one half, then all of the other."""

    def in_one_batch(apply_model, given):
        def twice(value):
            return value.repeat(2, *[1] * (value.ndim - 1)) if isinstance(value, torch.Tensor) else value

        halves = torch.cat(given["input"].chunk(2, dim=-1))
        out = apply_model(halves, twice(given["timestep"]), **{name: twice(c) for name, c in given["c"].items()})
        return torch.cat(out.chunk(2), dim=-1)

    model = inputs["model"].clone()
    model.set_model_unet_function_wrapper(in_one_batch)
    return inputs | {"model": model}


def row_by_row(inputs: Inputs) -> Inputs:
    """A call of the model for every row, as where memory is short."""

    def one_at_a_time(apply_model, given):
        def row(value, number):
            return value[number : number + 1] if isinstance(value, torch.Tensor) else value

        x, t, c = given["input"], given["timestep"], given["c"]
        rows = ({name: row(value, i) for name, value in c.items()} for i in range(len(x)))
        return torch.cat([apply_model(row(x, i), row(t, i), **each) for i, each in enumerate(rows)])

    model = inputs["model"].clone()
    model.set_model_unet_function_wrapper(one_at_a_time)
    return inputs | {"model": model}


def attention_couple(inputs: Inputs) -> Inputs:
    """Regional prompts within the layers: positive rows attend twice, to their prompt and to another, and a patch of
    the output makes one of the two."""
    model = inputs["model"].clone()

    def to_both(x, context, value, options):
        numbers = options["cond_or_uncond"]
        queries = [[q] if n else [q, q] for q, n in zip(x.chunk(len(numbers)), numbers, strict=True)]
        keys = [[k] if n else [k, k.flip(1)] for k, n in zip(context.chunk(len(numbers)), numbers, strict=True)]
        given = torch.cat(list(itertools.chain(*keys)))
        return torch.cat(list(itertools.chain(*queries))), given, given

    def one_of_both(out, options):
        numbers = options["cond_or_uncond"]
        parts = iter(out.chunk(sum(1 if n else 2 for n in numbers)))
        return torch.cat([next(parts) if n else (next(parts) + next(parts)) / 2 for n in numbers])

    model.set_model_attn2_patch(to_both)
    model.set_model_attn2_output_patch(one_of_both)
    return inputs | {"model": model}


def rescale_cfg(inputs: Inputs) -> Inputs:
    return inputs | {"model": RescaleCFG().patch(inputs["model"], 0.7)[0]}


def apg(inputs: Inputs) -> Inputs:
    """Projected guidance, with a momentum from step to step."""
    return inputs | {"model": APG.execute(inputs["model"], 0.5, 5.0, -0.5).args[0]}


def cfg_zero_star(inputs: Inputs) -> Inputs:
    return inputs | {"model": CFGZeroStar.execute(inputs["model"]).args[0]}


def mahiro(inputs: Inputs) -> Inputs:
    return inputs | {"model": Mahiro.execute(inputs["model"]).args[0]}


def cfg_override(inputs: Inputs) -> Inputs:
    """Another guidance scale in the middle of the run."""
    return inputs | {"model": CFGOverride.execute(inputs["model"], 2.0, 0.2, 0.8).args[0]}


def easy_cache(inputs: Inputs, end: float = 0.5) -> Inputs:
    """The host's own cache: it leaves out whole calls of the model, here early ones."""
    return inputs | {"model": EasyCacheNode.execute(inputs["model"], 2.0, 0.1, end, False).args[0]}


def late_easy_cache(inputs: Inputs) -> Inputs:
    """The same to the end of the run: it leaves out all of the last steps."""
    return easy_cache(inputs, 0.9)


def lazy_cache(inputs: Inputs) -> Inputs:
    """The host's own cache, around the guider: it leaves out whole evaluations."""
    return inputs | {"model": LazyCacheNode.execute(inputs["model"], 2.0, 0.1, 0.5, False).args[0]}


def model_sampling(sampling: str, *, zsnr: bool = False) -> Companion:
    """Another prediction type, by the stock node."""
    return lambda inputs: inputs | {"model": ModelSamplingDiscrete().patch(inputs["model"], sampling, zsnr)[0]}


def edm(inputs: Inputs) -> Inputs:
    """Continuous noise levels, v-prediction as Playground and CosXL have it."""
    return inputs | {"model": ModelSamplingContinuousEDM().patch(inputs["model"], "v_prediction", 120.0, 0.002)[0]}


def compiled(inputs: Inputs) -> Inputs:
    """torch.compile, on a backend that runs the traced graphs as they are."""
    return inputs | {"model": TorchCompileModel.execute(inputs["model"], "eager").result[0]}


def merged(other: Callable[..., ModelPatcher]) -> Companion:
    """A merge with the same model of other weights."""
    return lambda inputs: inputs | {"model": ModelMergeSimple().merge(inputs["model"], other(seed=5), 0.5)[0]}


def merged_by_blocks(other: Callable[..., ModelPatcher]) -> Companion:
    """A merge of other strength in the input, middle and output blocks."""
    ratios = {"input": 0.8, "middle": 0.5, "out": 0.9}
    return lambda inputs: inputs | {"model": ModelMergeBlocks().merge(inputs["model"], other(seed=5), **ratios)[0]}


def context_windows(inputs: Inputs, **given: Any) -> Inputs:
    """A wide picture, evaluated in overlapping windows of 16 columns."""
    settings = {"context_schedule": "standard_static", "context_stride": 1, "closed_loop": False, "dim": 3} | given
    windows = ContextWindowsManualNode.execute(
        inputs["model"],
        context_length=16,
        context_overlap=4,
        fuse_method="pyramid",
        freenoise=False,
        cond_retain_index_list="",
        latent_retain_index_list="",
        **settings,
    )
    return inputs | {"model": windows.args[0]}


def a_prompt_for_each_window(inputs: Inputs) -> Inputs:
    """Two positive prompts, of which each window gets one."""
    return context_windows(combined(inputs), split_conds_to_windows=True)


# Latents


def img2img(inputs: Inputs) -> Inputs:
    return with_picture(inputs) | {"denoise": 0.7}


def with_picture(inputs: Inputs) -> Inputs:
    """A given picture in place of an empty latent."""
    shape = inputs["latent_image"]["samples"].shape
    picture = torch.randn(shape, generator=torch.Generator().manual_seed(16))
    return inputs | {"latent_image": inputs["latent_image"] | {"samples": picture}}


def part_of_a_batch(inputs: Inputs) -> Inputs:
    """Two pictures out of six, whose noise is theirs in the batch of six."""
    (batch,) = comfy_nodes.RepeatLatentBatch().repeat(inputs["latent_image"], 3)
    (part,) = comfy_nodes.LatentFromBatch().frombatch(batch, 3, 2)
    return inputs | {"latent_image": part}


def inpaint(inputs: Inputs, mask: torch.Tensor | None = None) -> Inputs:
    """SetLatentNoiseMask with a hard mask in pixels: the left half stays."""
    inputs = with_picture(inputs)
    if mask is None:
        mask = (pixel_ramp(inputs) > 0.5).float()
    (latent,) = comfy_nodes.SetLatentNoiseMask().set_mask(inputs["latent_image"], mask)
    return inputs | {"latent_image": latent}


def inpaint_softly(inputs: Inputs) -> Inputs:
    """A mask from 0 on the left to 1 on the right."""
    return inpaint(inputs, pixel_ramp(inputs))


def differential_diffusion(inputs: Inputs) -> Inputs:
    inputs = inpaint_softly(inputs)
    return inputs | {"model": DifferentialDiffusion.execute(inputs["model"], 1.0).args[0]}


def inpainting_conditioning(inputs: Inputs) -> Inputs:
    """For an inpainting checkpoint: the mask and the masked picture are channels of the model's input."""
    vae = SimpleNamespace(encode=lambda pixels: pixels.movedim(-1, 1)[:, [0, 1, 2, 0], ::8, ::8] - 0.5)
    positive, negative, latent = comfy_nodes.InpaintModelConditioning().encode(
        inputs["positive"], inputs["negative"], hint(inputs), vae, (pixel_ramp(inputs) > 0.5).float(), True
    )
    return inputs | {"positive": positive, "negative": negative, "latent_image": latent}


def pixel_ramp(inputs: Inputs) -> torch.Tensor:
    """A mask (1, height, width) in pixels that rises from 0 to 1."""
    _, height, width, _ = hint(inputs).shape
    return torch.linspace(0, 1, width).expand(1, height, width)


# Prompts


def another_prompt(inputs: Inputs, seed: int = 17, tokens: int = 7) -> list:
    ((prompt, values),) = inputs["positive"]
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, tokens, prompt.shape[-1], generator=generator), dict(values)]]


def combined(inputs: Inputs, other: list | None = None) -> Inputs:
    (positive,) = comfy_nodes.ConditioningCombine().combine(inputs["positive"], other or another_prompt(inputs))
    return inputs | {"positive": positive}


def averaged(inputs: Inputs) -> Inputs:
    (positive,) = comfy_nodes.ConditioningAverage().addWeighted(inputs["positive"], another_prompt(inputs), 0.6)
    return inputs | {"positive": positive}


def zeroed(inputs: Inputs) -> Inputs:
    (negative,) = comfy_nodes.ConditioningZeroOut().zero_out(inputs["negative"])
    return inputs | {"negative": negative}


def area(inputs: Inputs) -> Inputs:
    """A second prompt for a box, given in pixels."""
    _, height, width, _ = hint(inputs).shape
    box = (width // 2, height // 2, width // 4, height // 4)
    (boxed,) = comfy_nodes.ConditioningSetArea().append(another_prompt(inputs), *box, 1.5)
    return combined(inputs, boxed)


def percentage_area(inputs: Inputs) -> Inputs:
    (boxed,) = comfy_nodes.ConditioningSetAreaPercentage().append(another_prompt(inputs), 0.5, 0.75, 0.25, 0.25, 1.5)
    return combined(inputs, boxed)


def masked_prompt(inputs: Inputs, bounds: str = "default") -> Inputs:
    mask = (pixel_ramp(inputs) > 0.5).float()
    (masked,) = comfy_nodes.ConditioningSetMask().append(another_prompt(inputs), mask, bounds, 0.8)
    return combined(inputs, masked)


def masked_prompt_in_bounds(inputs: Inputs) -> Inputs:
    """The prompt is evaluated on the mask's bounding box only."""
    return masked_prompt(inputs, "mask bounds")


def prompt_for_a_while(inputs: Inputs) -> Inputs:
    """One positive prompt in the first half of the run, another after it."""
    early = comfy_nodes.ConditioningSetTimestepRange().set_range(inputs["positive"], 0.0, 0.55)[0]
    late = comfy_nodes.ConditioningSetTimestepRange().set_range(another_prompt(inputs), 0.55, 1.0)[0]
    return inputs | {"positive": early + late}


def longer_negative_prompt(inputs: Inputs, tokens: int = 14) -> Inputs:
    """Prompts of 7 and 14 tokens, which the host pads to one length."""
    return inputs | {"negative": another_prompt(inputs, seed=18, tokens=tokens)}


def unequal_negative_prompt(inputs: Inputs) -> Inputs:
    """Prompts of 7 and 5 tokens, which the host evaluates in calls of their own."""
    return longer_negative_prompt(inputs, tokens=5)


def regions(inputs: Inputs) -> Inputs:
    """Two more positive prompts, for a box and under a mask: more rows than a pair, of two sizes."""
    ((prompt, values),) = inputs["positive"]
    boxed = [prompt.roll(1, -1), values | {"area": (8, 12, 4, 2), "strength": 1.5}]
    masked = [prompt.roll(2, -1), values | {"mask": torch.linspace(0, 1, 16).expand(1, 16, 16), "mask_strength": 0.8}]
    return inputs | {"positive": [*inputs["positive"], boxed, masked]}


COMPANIONS: dict[str, Companion] = {
    companion.__name__: companion
    for companion in (controlnet, t2i_adapter, lora, lora_hooks, freeu, pag, sag, ip_adapter, gligen)
}


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


def hint(inputs: Inputs) -> torch.Tensor:
    """A picture of the latent's size in pixels."""
    height, width = (8 * side for side in inputs["latent_image"]["samples"].shape[-2:])
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(14))


def t2i_adapter_network() -> comfy.controlnet.T2IAdapter:
    network = comfy.t2i_adapter.adapter.Adapter_light(channels=[32, 32, 64, 64], nums_rb=1, cin=3 * 8 * 8)
    fill(network)
    return comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", device=CPU)


def controlnet_for(model: ModelPatcher, seed: int) -> comfy.controlnet.ControlNet:
    config = dict(model.model.model_config.unet_config)
    config.pop("out_channels")
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, operations=comfy.ops.disable_weight_init, device=CPU
    )
    fill(network, seed)
    return comfy.controlnet.ControlNet(network, load_device=CPU)


def _with_control(
    inputs: Inputs, control: comfy.controlnet.ControlBase, strength: float, start: float, end: float
) -> Inputs:
    positive, negative = comfy_nodes.ControlNetApplyAdvanced().apply_controlnet(
        inputs["positive"], inputs["negative"], control, hint(inputs), strength, start, end
    )
    return inputs | {"positive": positive, "negative": negative}
