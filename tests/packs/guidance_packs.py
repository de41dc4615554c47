"""Packs that change guidance, and that bring samplers and schedulers."""

from __future__ import annotations

from typing import Any

import nodes
import torch

import companions
import other_packs
import sampler_nodes
import tiny_models
from companions import Companion, Inputs
from composition import CUT, DEEP, NO_GUIDANCE, SAMPLERS, TOGETHER, Row
from other_packs import Pack
from sampler_nodes import Sample

GUIDANCE = "Guidance of other packs"


def on_model(kind: str, **given: Any) -> Companion:
    """A node that patches the model."""
    return lambda inputs: inputs | {"model": other_packs.run(kind, model=inputs["model"], **given)[0]}


def sampler_node(kind: str, **given: Any) -> Sample:
    """SamplerCustom with the sampler that a node gives."""

    return lambda inputs: sampler_nodes.sampler_custom(inputs, other_packs.run(kind, **given)[0])


# sd-perturbed-attention


def normalized_attention(inputs: Inputs) -> Inputs:
    return on_model("NormalizedAttentionGuidance", negative=inputs["negative"])(inputs)


DRAWS_IN_LAYERS = (
    "Token perturbation shuffles in every layer it is on, by one random sequence: layers that the deep cache leaves "
    "out draw nothing, so that the others shuffle otherwise."
)

# RES4LYF


def clownshark(inputs: Inputs, **given: Any) -> dict[str, Any]:
    """The latent that ClownsharKSampler gives, with noise drawn as a KSampler draws it."""
    options = other_packs.run("ClownOptions_ExtraOptions_Beta", extra_options="bypass_noise_norm")[0]
    names = ("model", "positive", "negative", "latent_image", "scheduler", "steps", "cfg", "seed", "denoise")
    output = nodes.NODE_CLASS_MAPPINGS["ClownsharKSampler_Beta"].execute(
        **{name: inputs[name] for name in names},
        eta=0.5,
        sampler_name="res_2m",
        options_group={"options0": options},
        **given,
    )
    return output.args[0]


def clownshark_alone(inputs: Inputs) -> list[torch.Tensor]:
    return [clownshark(inputs)["samples"]]


def clownshark_guided(inputs: Inputs) -> list[torch.Tensor]:
    """Towards a picture of the full latent's size, in the first steps."""
    picture = companions.with_picture(inputs)["latent_image"]
    guide = other_packs.run("ClownGuide_Beta", guide=picture, guide_mode="epsilon", weight=0.5, end_step=4)[0]
    return [clownshark(inputs, guides=guide)["samples"]]


def clownshark_chained(inputs: Inputs) -> list[torch.Tensor]:
    """Three steps, and the rest by another sampler that takes over its state."""
    chain = nodes.NODE_CLASS_MAPPINGS["ClownsharkChainsampler_Beta"]
    begun = clownshark(inputs, steps_to_run=3)
    output = chain.execute(latent_image=begun, sampler_mode="resample", sampler_name="res_2m", cfg=5.0)
    return [output.args[0]["samples"]]


RES4LYF_SAMPLERS = [
    ("res_2m", "beta57"),
    ("res_2m", "bong_tangent"),
    ("res_2s", "simple"),
    ("res_3s", "simple"),
    ("res_3m_ode", "simple"),
    ("deis_2m", "simple"),
    ("rk_beta", "simple"),
    ("euler", "beta57"),
    ("euler", "bong_tangent"),
]

# smZNodes


def smz_settings(**given: Any) -> Companion:
    def add(inputs: Inputs) -> Inputs:
        node = nodes.NODE_CLASS_MAPPINGS["smZ Settings"]
        optional = {name: other_packs.default(each) for name, each in node.INPUT_TYPES()["optional"].items()}
        return inputs | {"model": node().apply(**(optional | given | {"*": inputs["model"]}))[0]}

    return add


def weights_of_combined_prompts(inputs: Inputs) -> Inputs:
    """As its text node writes them for `one AND another :0.6`."""
    inputs = companions.combined(inputs)
    weighted = zip(inputs["positive"], (1.0, 0.6), strict=True)
    return inputs | {"positive": [[prompt, values | {"weight": weight}] for (prompt, values), weight in weighted]}


PACKS = (
    Pack(
        "mcmonkeyprojects/sd-dynamic-thresholding",
        "73e4e04",
        (Row("DynamicThresholdingSimple", GUIDANCE, on_model("DynamicThresholdingSimple", mimic_scale=3.0)),),
        has="DynamicThresholdingSimple",
    ),
    Pack(
        "pamparamm/sd-perturbed-attention",
        "904319b",
        (
            Row("PAG (Advanced)", GUIDANCE, on_model("PerturbedAttention", rescale=0.5)),
            Row("PAG (Advanced), snf", GUIDANCE, on_model("PerturbedAttention", rescale_mode="snf")),
            Row("SEG (Advanced)", GUIDANCE, on_model("SmoothedEnergyGuidanceAdvanced")),
            Row(
                "SEG (Advanced), blurred, output block",
                GUIDANCE,
                on_model("SmoothedEnergyGuidanceAdvanced", blur_sigma=1.0, unet_block="output", unet_block_id=1),
            ),
            Row(
                "Sliding Window Guidance",
                GUIDANCE,
                on_model("SlidingWindowGuidanceAdvanced", tile_width=64, tile_height=64, tile_overlap=32),
            ),
            Row("Normalized Attention Guidance", GUIDANCE, normalized_attention),
            Row(
                "Token Perturbation Guidance",
                GUIDANCE,
                on_model("TokenPerturbationGuidance", unet_block_list="d1"),
                not_compared=dict.fromkeys((DEEP, TOGETHER), DRAWS_IN_LAYERS),
            ),
            Row("PLADIS", GUIDANCE, on_model("PLADIS")),
            Row("Momentum Guidance", GUIDANCE, on_model("MomentumGuidance")),
            Row("SMC-CFG", GUIDANCE, on_model("SlidingModeControlCFG")),
            Row("Frequency-Decoupled Guidance", GUIDANCE, on_model("FrequencyDecoupledGuidance")),
        ),
        has="PerturbedAttention",
    ),
    Pack(
        "ClownsharkBatwing/RES4LYF",
        "022c873",
        (
            *(
                Row(
                    f"{sampler}, {scheduler}",
                    SAMPLERS,
                    given={"sampler_name": sampler, "scheduler": scheduler},
                    line=sampler,
                )
                for sampler, scheduler in RES4LYF_SAMPLERS
            ),
            Row("ClownsharKSampler", SAMPLERS, sample=clownshark_alone),
            Row("ClownsharKSampler, inpainting", SAMPLERS, companions.inpaint, clownshark_alone),
            Row("ClownSampler in SamplerCustom", SAMPLERS, sample=sampler_node("ClownSampler_Beta", seed=1)),
        ),
        has="ClownsharKSampler_Beta",
    ),
    Pack(
        "shiimizu/ComfyUI_smZNodes",
        "9562d76",
        (
            Row("Settings (smZ), RNG nv", GUIDANCE, smz_settings(RNG="nv")),
            Row("Settings (smZ), NGMS", GUIDANCE, smz_settings(NGMS=3.0)),
            Row(
                "CLIP Text Encode++, weights after AND", GUIDANCE, weights_of_combined_prompts, refuses=frozenset({CUT})
            ),
        ),
        has="smZ Settings",
    ),
    Pack(
        "Extraltodeus/ComfyUI-AutomaticCFG",
        "2e39531",
        (
            Row("Automatic CFG", GUIDANCE, on_model("Automatic CFG"), idle=NO_GUIDANCE),
            Row("Automatic CFG, no boost", GUIDANCE, on_model("Automatic CFG", hard_mode=False, boost=False)),
            Row(
                "Automatic CFG - Negative",
                GUIDANCE,
                on_model("Automatic CFG - Negative", negative_strength=1.5),
                idle=NO_GUIDANCE,
            ),
            Row("Automatic CFG - Warp Drive", GUIDANCE, on_model("Automatic CFG - Warp Drive"), idle=NO_GUIDANCE),
            Row("Automatic CFG - Post rescale only", GUIDANCE, on_model("Automatic CFG - Post rescale only")),
        ),
        has="Automatic CFG",
    ),
    Pack(
        "blepping/ComfyUI-sonar",
        "6c4ae67",
        (
            Row("SamplerSonarEuler", SAMPLERS, sample=sampler_node("SamplerSonarEuler")),
            Row("SamplerSonarEulerA", SAMPLERS, sample=sampler_node("SamplerSonarEulerA")),
            Row("SamplerSonarDPMPPSDE", SAMPLERS, sample=sampler_node("SamplerSonarDPMPPSDE")),
        ),
        has="SamplerSonarEuler",
    ),
    Pack(
        "pamparamm/ComfyUI-vectorscope-cc",
        "6e9ad1b",
        (
            Row(
                "VectorscopeCC",
                GUIDANCE,
                on_model("VectorscopeCC", alt=True, brightness=0.5, contrast=0.3, saturation=1.3),
                model=tiny_models.sd15,
            ),
            Row(
                "DiffusionCG",
                GUIDANCE,
                on_model("DiffusionCG", recenter_strength=0.5),
                model=tiny_models.sd15,
                given={"sampler_name": "dpmpp_2m"},
            ),
        ),
        has="VectorscopeCC",
    ),
)
