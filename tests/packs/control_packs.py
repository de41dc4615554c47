"""Packs that add control, style and inpainting."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import comfy.clip_vision
import comfy.controlnet
import comfy.t2i_adapter.adapter
import nodes as comfy_nodes
import torch
from comfy.model_patcher import ModelPatcher

import companions
import other_packs
import sampler_nodes
import tiny_models
from companions import Companion, Inputs
from composition import CROSS, CUT, MIXED, TOGETHER, Row, one_unet
from other_packs import Pack, module_beside
from sampler_nodes import Sample

SD15, SDXL = tiny_models.sd15, tiny_models.sdxl
CONTROL = "Control of other packs"
FULL_SIZE = frozenset({MIXED})  # the node keeps a tensor of the full latent's size: the run starts again


def random_tensor(*shape: int, seed: int = 30) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear_weights(name: str, out_features: int, in_features: int, seed: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": random_tensor(out_features, in_features, seed=seed) / in_features**0.5}


def right_half(inputs: Inputs) -> torch.Tensor:
    """A mask in pixels."""
    return (companions.pixel_ramp(inputs) > 0.5).float()


# IPAdapter

SEEN = 32  # width of what the vision model says of a picture
LAYERS_IN_SDXL = {"input": {4: 2, 5: 2, 7: 10, 8: 10}, "output": {0: 10, 1: 10, 2: 10, 3: 2, 4: 2, 5: 2}}


@functools.cache
def clip_vision() -> comfy.clip_vision.ClipVisionModel:
    model = comfy.clip_vision.ClipVisionModel(
        {
            "model_type": "clip_vision_model",
            "hidden_size": SEEN,
            "intermediate_size": 2 * SEEN,
            "projection_dim": SEEN,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_channels": 3,
            "patch_size": 56,
            "image_size": 224,
            "hidden_act": "quick_gelu",
        }
    )
    companions.fill(model.model)
    return model


def widths_in_order(model: ModelPatcher) -> list[int]:
    """Of the cross-attention layers, in the order in which an IPAdapter file numbers them."""
    width_at = {
        (kind, block, index): layer.transformer_blocks[index].attn2.to_k.out_features
        for kind, block, index, layer in companions.transformers(model)
    }
    if isinstance(model.model, comfy.model_base.SDXL):  # a full-size model's layers: the small one has fewer
        places = [(k, b, i) for k, blocks in LAYERS_IN_SDXL.items() for b, n in blocks.items() for i in range(n)]
        return [width_at.get(place, 32) for place in [*places, *(("middle", 0, i) for i in range(10))]]
    of_kind = {kind: [width for place, width in width_at.items() if place[0] == kind] for kind in companions.BLOCKS}
    return of_kind["input"] + of_kind["output"] + of_kind["middle"]


def ip_adapter_weights(model: ModelPatcher, *, plus: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    width = 2048 if isinstance(model.model, comfy.model_base.SDXL) else 16  # 2048 is how the pack knows SDXL's
    layers = {}
    for number, layer_width in enumerate(widths_in_order(model)):
        for projection, seed in (("to_k_ip", number), ("to_v_ip", 100 + number)):
            layers |= linear_weights(f"{2 * number + 1}.{projection}", layer_width, width, seed)
    projections = module_beside("IPAdapterAdvanced", "image_proj_models")
    if plus:
        image_proj = projections.Resampler(
            dim=width, depth=4, dim_head=64, heads=12, num_queries=16, embedding_dim=SEEN, output_dim=width, ff_mult=4
        )
    else:
        image_proj = projections.ImageProjModel(width, SEEN, 4)
    companions.fill(image_proj)
    return {"image_proj": image_proj.state_dict(), "ip_adapter": layers}


def picture(seed: int = 31) -> torch.Tensor:
    return torch.rand(1, 224, 224, 3, generator=torch.Generator().manual_seed(seed))


def ip_adapter(node: str = "IPAdapterAdvanced", *, plus: bool = False, masked: bool = False, **given: Any) -> Companion:
    """An IPAdapter that sees a random picture."""

    def add(inputs: Inputs) -> Inputs:
        model = inputs["model"]
        seen = {"image": picture()} if "image_style" not in given and "pos_embed" not in given else {}
        mask = {"attn_mask": right_half(inputs)} if masked else {}
        adapter = ip_adapter_weights(model, plus=plus)
        patched = other_packs.run(
            node, model=model, ipadapter=adapter, clip_vision=clip_vision(), **seen, **mask, **given
        )
        return inputs | {"model": patched[0]}

    return add


def two_ip_adapters(inputs: Inputs) -> Inputs:
    return ip_adapter(end_at=0.6)(ip_adapter(masked=True, weight=0.7)(inputs))


def regional_ip_adapters(inputs: Inputs) -> Inputs:
    """A picture and a prompt for each half, as IPAdapter's regional nodes set them."""
    regions = []
    for number, mask in enumerate((right_half(inputs), 1 - right_half(inputs))):
        regions.append(
            other_packs.run(
                "IPAdapterRegionalConditioning",
                image=picture(31 + number),
                mask=mask,
                positive=companions.another_prompt(inputs, seed=40 + number),
            )
        )
    (params,) = other_packs.run("IPAdapterCombineParams", params_1=regions[0][0], params_2=regions[1][0])
    patched = other_packs.run(
        "IPAdapterFromParams",
        model=inputs["model"],
        ipadapter=ip_adapter_weights(inputs["model"]),
        clip_vision=clip_vision(),
        ipadapter_params=params,
    )
    positive = inputs["positive"] + regions[0][1] + regions[1][1]
    return inputs | {"model": patched[0], "positive": positive}


IP_ADAPTER = (
    Row("IPAdapterAdvanced", CONTROL, ip_adapter(), model=SD15),
    Row(
        "IPAdapterAdvanced, masked, ease in, K+V",
        CONTROL,
        ip_adapter(masked=True, weight_type="ease in", embeds_scaling="K+V"),
        model=SD15,
    ),
    Row("IPAdapterAdvanced, from 0.2 to 0.6", CONTROL, ip_adapter(start_at=0.2, end_at=0.6), model=SD15),
    Row("IPAdapterAdvanced, from 0.3 on", CONTROL, ip_adapter(start_at=0.3), model=SD15),
    Row(
        "IPAdapterPreciseStyleTransfer, plus",
        CONTROL,
        ip_adapter("IPAdapterPreciseStyleTransfer", plus=True),
        model=SD15,
    ),
    Row("IPAdapterTiled", CONTROL, ip_adapter("IPAdapterTiled"), model=SD15),
    Row("IPAdapterBatch, two pictures", CONTROL, ip_adapter("IPAdapterBatch"), model=SD15, latent={"batch": 2}),
    Row("IPAdapterAdvanced, two", CONTROL, two_ip_adapters, model=SD15),
    Row("IPAdapterRegionalConditioning", CONTROL, regional_ip_adapters, model=SD15),
    Row(
        "IPAdapterStyleComposition, SDXL",
        CONTROL,
        ip_adapter("IPAdapterStyleComposition", image_style=picture(33), image_composition=picture(34)),
        model=SDXL,
    ),
    Row(
        "IPAdapterEmbeds",
        CONTROL,
        ip_adapter("IPAdapterEmbeds", pos_embed=random_tensor(1, SEEN), neg_embed=random_tensor(1, SEEN, seed=35)),
        model=SD15,
    ),
)

# Advanced-ControlNet


def advanced_controlnet(
    *, t2i: bool = False, masked: bool = False, keyframes: bool = False, latent_keyframes: bool = False, **given: Any
) -> Companion:
    """A stock network, which the pack's node makes one of its own."""

    def add(inputs: Inputs) -> Inputs:
        more = {"mask_optional": right_half(inputs)} if masked else {}
        if keyframes:
            weights, _ = other_packs.run("ACN_ScaledSoftControlNetWeights")
            (frames,) = other_packs.run("TimestepKeyframe", start_percent=0.0, strength=0.3)
            (frames,) = other_packs.run(
                "TimestepKeyframe",
                start_percent=0.3,
                strength=1.0,
                cn_weights=weights,
                mask_optional=right_half(inputs),
                prev_timestep_kf=frames,
            )
            (frames,) = other_packs.run(
                "TimestepKeyframe", start_percent=0.7, strength=0.6, inherit_missing=False, prev_timestep_kf=frames
            )
            more["timestep_kf"] = frames
        if latent_keyframes:
            (more["latent_kf_override"],) = other_packs.run("LatentKeyframe", batch_index=1, strength=0.7)
        positive, negative = other_packs.run(
            "ACN_AdvancedControlNetApply_v2",
            positive=inputs["positive"],
            negative=inputs["negative"],
            control_net=companions.t2i_adapter_network() if t2i else companions.controlnet_for(inputs["model"], 10),
            image=companions.hint(inputs),
            **{"strength": 0.5} | more | given,
        )
        return inputs | {"positive": positive, "negative": negative}

    return add


def soft_weights(inputs: Inputs) -> Inputs:
    weights, _ = other_packs.run("ACN_ScaledSoftControlNetWeights", base_multiplier=0.7)
    return advanced_controlnet(weights_override=weights)(inputs)


def a_scale_of_strengths(inputs: Inputs) -> Inputs:
    (frames,) = other_packs.run(
        "ACN_TimestepKeyframeInterpolation", strength_start=1.0, strength_end=0.1, end_percent=0.8, intervals=20
    )
    return advanced_controlnet(timestep_kf=frames)(inputs)


def reference(kind: str = "reference_attn", **given: Any) -> Companion:
    """Reference-only: the model is called for a noisy reference before each call for the picture."""

    def add(inputs: Inputs) -> Inputs:
        samples = random_tensor(*inputs["latent_image"]["samples"].shape, seed=36)
        wrapped = module_beside("ACN_ReferenceControlNet", "control_reference").ReferencePreprocWrapper(
            condhint=samples
        )
        (control,) = other_packs.run("ACN_ReferenceControlNet", reference_type=kind, **given)
        positive, negative = other_packs.run(
            "ACN_AdvancedControlNetApply_v2",
            positive=inputs["positive"],
            negative=inputs["negative"],
            control_net=control,
            image=wrapped,
        )
        return inputs | {"positive": positive, "negative": negative}

    return add


def with_the_same_noise(inputs: Inputs) -> list[torch.Tensor]:
    """The reference gets the same noise in every call: it is drawn for as many rows as there are, which the cut-off
    changes."""

    def randn_like(x: torch.Tensor) -> torch.Tensor:
        return random_tensor(*x.shape[1:], seed=37).to(x).expand(x.shape)

    with mock.patch.object(torch, "randn_like", randn_like):
        return sampler_nodes.ksampler(inputs)


NEGATIVE_ATTENDS_TWICE = frozenset({CUT, TOGETHER})  # and thus is more than half of the work that the cut-off drops

ADVANCED_CONTROLNET = (
    Row("ACN Apply, masked", CONTROL, advanced_controlnet(masked=True)),
    Row("ACN Apply, keyframes with masks and weights", CONTROL, advanced_controlnet(keyframes=True)),
    Row("ACN Apply, latent keyframes", CONTROL, advanced_controlnet(latent_keyframes=True), latent={"batch": 2}),
    Row("ACN Apply, soft weights", CONTROL, soft_weights),
    Row("ACN Apply, a scale of strengths", CONTROL, a_scale_of_strengths),
    Row("ACN Apply, T2I-Adapter", CONTROL, advanced_controlnet(t2i=True), model=SD15),
    Row(
        "ACN Reference, attention",
        CONTROL,
        reference(),
        with_the_same_noise,
        model=SD15,
        less_than_planned=NEGATIVE_ATTENDS_TWICE,
    ),
    Row(
        "ACN Reference, adain",
        CONTROL,
        reference("reference_attn+adain", style_fidelity=0.3),
        with_the_same_noise,
        model=SD15,
        less_than_planned=NEGATIVE_ATTENDS_TWICE,
    ),
)

# Nodes that keep a tensor at the full latent's size


def ic_light(inputs: Inputs) -> Inputs:
    """The foreground's latent as four more channels of the model's input; the model's weights are a difference."""
    model = inputs["model"]
    latent = {"samples": random_tensor(*inputs["latent_image"]["samples"].shape, seed=38)}
    difference = tiny_models.small_unet(in_channels=8, seed=3)
    for weight in difference.model.diffusion_model.parameters():
        weight.data *= 0.1
    (model,) = other_packs.run("ICLightAppply", model=model, ic_model=difference, c_concat=latent)
    return inputs | {"model": model}


def fooocus_inpaint(inputs: Inputs) -> Inputs:
    """A head that sees the masked picture, added to what leaves the first block, and changed weights."""
    inputs = companions.inpaint(inputs)
    latent = inputs["latent_image"]
    model = inputs["model"]
    head = module_beside("INPAINT_ApplyFooocusInpaint").InpaintHead()
    width = model.model.diffusion_model.model_channels
    head.head = torch.nn.Parameter(random_tensor(width, 5, 3, 3, seed=39) * 0.3)
    weights = {}
    for name, weight in model.model.state_dict().items():
        if ".attn1.to_q." in name:
            byte = torch.randint(0, 255, weight.shape, generator=torch.Generator().manual_seed(40), dtype=torch.uint8)
            weights[name] = (byte, torch.tensor(-0.1), torch.tensor(0.1))
    mask = latent["noise_mask"].reshape(1, 1, *latent["noise_mask"].shape[-2:])
    (model,) = other_packs.run(
        "INPAINT_ApplyFooocusInpaint",
        model=model,
        patch=(head, weights),
        latent={"samples": latent["samples"], "noise_mask": mask},
    )
    return inputs | {"model": model}


def lllite_file(folder: Path) -> Path:
    """A network for the layers of the small SDXL that it can follow the size of: those at half the latent's sides."""
    network = {}
    for block in (4, 5):
        name = f"lllite_unet_input_blocks_{block}_1_transformer_blocks_0_attn1_to_q"
        module = module_beside("LLLiteLoader").LLLiteModule(name, False, 32, 2, 32, 16, 1.0, 0, 0, 0)
        companions.fill(module, seed=41 + block)
        network |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    path = folder / "lllite.safetensors"
    comfy.utils.save_torch_file(network, os.fspath(path))
    return path


def lllite(inputs: Inputs, **given: Any) -> Inputs:
    with tempfile.TemporaryDirectory() as folder:
        (model,) = other_packs.run(
            "LLLiteLoader",
            model=inputs["model"],
            model_name=os.fspath(lllite_file(Path(folder))),
            cond_image=companions.hint(inputs),
            **given,
        )
    return inputs | {"model": model}


# Layer Diffusion


@contextlib.contextmanager
def layer_weights(weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """What the pack would download."""
    module = module_beside("LayeredDiffusionApply")
    with (
        mock.patch.object(module, "load_file_from_url", lambda **_: ""),
        mock.patch.object(module, "load_layer_model_state_dict", lambda _: weights),
    ):
        yield


def layer_difference(channels: int, seed: int) -> dict[str, torch.Tensor]:
    """Weights to add to those of the small SDXL: of self-attention, and of a first layer with more inputs."""
    other = tiny_models.sdxl(seed=seed).model
    first = "diffusion_model.input_blocks.0.0.weight"
    weights = {name: 0.1 * weight for name, weight in other.state_dict().items() if ".attn1.to_q." in name}
    weights[first] = 0.1 * random_tensor(32, channels, 3, 3, seed=seed)
    return {f"{name}::diff::0": weight for name, weight in weights.items()}


def layer_diffusion_xl(inputs: Inputs) -> Inputs:
    with layer_weights(layer_difference(4, 43)):
        (model,) = other_packs.run("LayeredDiffusionApply", model=inputs["model"])
    return inputs | {"model": model}


def layer_diffusion_of_a_picture(inputs: Inputs) -> Inputs:
    """The given layer's latent is four more channels of the model's input."""
    with layer_weights(layer_difference(8, 44)):
        model, positive, negative = other_packs.run(
            "LayeredDiffusionCondApply",
            model=inputs["model"],
            cond=inputs["positive"],
            uncond=inputs["negative"],
            latent={"samples": random_tensor(*inputs["latent_image"]["samples"].shape, seed=45)},
        )
    return inputs | {"model": model, "positive": positive, "negative": negative}


LAYER_DIFFUSION = (
    Row("LayeredDiffusionApply, SDXL", CONTROL, layer_diffusion_xl, model=SDXL),
    Row("LayeredDiffusionCondApply, SDXL", CONTROL, layer_diffusion_of_a_picture, model=SDXL, refuses=FULL_SIZE),
)

# cgem156

CGEM = "|cgem156"


def attention_couple(inputs: Inputs) -> Inputs:
    mask = right_half(inputs)[0]
    node = comfy_nodes.NODE_CLASS_MAPPINGS[f"AttentionCouple{CGEM}"]()  # its inputs are named by the canvas
    (model,) = node.attention_couple_simple(
        inputs["model"], (1 - mask)[None], mask_1=mask[None], cond_1=companions.another_prompt(inputs)
    )
    return inputs | {"model": model}


def cgem(node: str, **given: Any) -> Companion:
    def add(inputs: Inputs) -> Inputs:
        return inputs | {"model": other_packs.run(node + CGEM, model=inputs["model"], **given)[0]}

    return add


def with_limited_interval_guider(inputs: Inputs) -> list[torch.Tensor]:
    guider = other_packs.run(
        f"LimitedIntervalCFGGuider{CGEM}",
        **{name: inputs[name] for name in ("model", "positive", "negative", "cfg")},
        start_step=0.2,
        end_step=0.8,
    )
    return sampler_nodes.sampler_custom_advanced(inputs, guider[0])


def with_sampler(node: str, **given: Any) -> Sample:
    """SamplerCustom with a sampler of the pack."""

    def sample(inputs: Inputs) -> list[torch.Tensor]:
        (sampler,) = other_packs.run(node + CGEM, **given)
        return sampler_nodes.sampler_custom(inputs, sampler)

    return sample


CGEM156 = (
    Row("TCDSampler", CONTROL, sample=with_sampler("TCDSampler")),
    Row("SamplerEulerAncestralFixedNoise", CONTROL, sample=with_sampler("SamplerEulerAncestralFixedNoise")),
    Row(
        "GradualLatentSampler",
        CONTROL,
        sample=with_sampler("GradualLatentSampler", start_step=2, end_step=6),
        refuses=FULL_SIZE,
    ),
    Row("AttentionCouple", CONTROL, attention_couple, refuses=frozenset({CROSS}), in_full=attention_couple),
    Row("ReferenceApply", CONTROL, cgem("ReferenceApply", end_step=0.7), model=SD15, latent={"batch": 2}),
    Row("ScaleCrafter", CONTROL, cgem("ScaleCrafter", dilation_rate=1.5), model=one_unet),
    Row("CD_Tuner", CONTROL, cgem("CD_Tuner", detail_1=5.0, detail_2=5.0, contrast_1=5.0), model=one_unet),
    Row("AttentionScale", CONTROL, cgem("AttentionScale", temperature=0.7, end_step=0.7), model=SD15),
    Row("LimitedIntervalCFGGuider", CONTROL, sample=with_limited_interval_guider),
)

# InstantID


class Faces:
    """What insightface sees in any picture: one face."""

    det_model = SimpleNamespace()

    def get(self, _picture: Any) -> list[dict[str, Any]]:
        corners = [[20.0, 20.0], [60.0, 20.0], [40.0, 40.0], [25.0, 60.0], [55.0, 60.0]]
        return [{"bbox": [0, 0, 80, 80], "embedding": random_tensor(512, seed=46).numpy(), "kps": corners}]


def instant_id(inputs: Inputs) -> Inputs:
    """A face for every cross-attention layer, and for a ControlNet in the prompt's place."""
    model = inputs["model"]
    layers = {}
    for number, width in enumerate(widths_in_order(model)):
        for projection, seed in (("to_k_ip", number), ("to_v_ip", 100 + number)):
            layers |= linear_weights(f"{2 * number + 1}.{projection}", width, 16, seed)
    module = module_beside("ApplyInstantID")
    projection = module.Resampler(
        dim=1280, depth=4, dim_head=64, heads=20, num_queries=16, embedding_dim=512, output_dim=16, ff_mult=4
    )
    companions.fill(projection)
    face = module.InstantID(
        {"image_proj": projection.state_dict(), "ip_adapter": layers},
        cross_attention_dim=1280,
        output_cross_attention_dim=16,
        clip_embeddings_dim=512,
        clip_extra_context_tokens=16,
    )
    model, positive, negative = other_packs.run(
        "ApplyInstantID",
        instantid=face,
        insightface=Faces(),
        control_net=companions.controlnet_for(model, 10),
        image=picture(47),
        model=model,
        positive=inputs["positive"],
        negative=inputs["negative"],
        weight=0.5,
        end_at=0.9,
    )
    return inputs | {"model": model, "positive": positive, "negative": negative}


PACKS = (
    Pack("cubiq/ComfyUI_IPAdapter_plus", "9d076a3", IP_ADAPTER, has="IPAdapterAdvanced"),
    Pack(
        "Kosinkadink/ComfyUI-Advanced-ControlNet", "9e60d8a", ADVANCED_CONTROLNET, has="ACN_AdvancedControlNetApply_v2"
    ),
    Pack(
        "huchenlei/ComfyUI-IC-Light-Native",
        "9176645",
        (Row("ICLightAppply", CONTROL, ic_light, refuses=FULL_SIZE),),
        has="ICLightAppply",
    ),
    Pack(
        "Acly/comfyui-inpaint-nodes",
        "b32f293",
        (Row("INPAINT_ApplyFooocusInpaint", CONTROL, fooocus_inpaint, refuses=FULL_SIZE),),
        has="INPAINT_ApplyFooocusInpaint",
    ),
    Pack(
        "kohya-ss/ControlNet-LLLite-ComfyUI",
        "103a445",
        (Row("LLLiteLoader", CONTROL, lllite, model=SDXL, refuses=FULL_SIZE),),
        has="LLLiteLoader",
    ),
    Pack("huchenlei/ComfyUI-layerdiffuse", "fffa28a", LAYER_DIFFUSION, has="LayeredDiffusionApply"),
    Pack("laksjdjf/cgem156-ComfyUI", "884563c", CGEM156, has=f"AttentionCouple{CGEM}"),
    Pack(
        "cubiq/ComfyUI_InstantID",
        "1ef34ef",
        (Row("ApplyInstantID", CONTROL, instant_id, model=SDXL),),
        has="ApplyInstantID",
    ),
)
