"""Ids, inputs, ranges and defaults: shared workflows depend on them."""

import re

import nodes as comfy_nodes
import pytest

from postdiff.nodes.cfg_cutoff import CFGCutoff
from postdiff.nodes.cross_attn_cache_patch import CrossAttnCachePatch
from postdiff.nodes.deep_cache_patch import DeepCachePatch
from postdiff.nodes.embedded_model import PostDiffEmbeddedModel
from postdiff.nodes.mixed_resolution_ksampler import MixedResolutionKSampler
from postdiff.nodes.mixed_resolution_patch import MixedResolutionPatch
from postdiff.nodes.postdiff_calibrate import PostDiffCalibrate
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler
from postdiff.nodes.postdiff_report import PostDiffReport
from postdiff.postdiff_core.techniques import TECHNIQUE_INFO

KSAMPLER = {name: None for name in comfy_nodes.KSampler.INPUT_TYPES()["required"]}
METHODS = ["bilinear", "nearest-exact", "bicubic", "area", "bislerp"]
MIXED = {
    "low_res_scale": (0.5, 0.25, 1.0),
    "low_res_until": (0.5, 0.0, 1.0),
    "upscale_method": ("bilinear", METHODS),
    "switch": ("paper", ["paper", "matched"]),
}
PRESETS = ["auto", "sd15", "lcm", "sdxl", "pixart_alpha", "embedded", "off"]
NODES = {
    MixedResolutionKSampler: (["LATENT", "MODEL"], KSAMPLER | MIXED),
    MixedResolutionPatch: (["MODEL"], {"model": None} | MIXED),
    DeepCachePatch: (
        ["MODEL"],
        {
            "model": None,
            "interval": (2, 1, 20),
            "depth": (2, 1, 11),
            "start_percent": (0.0, 0.0, 1.0),
            "end_percent": (1.0, 0.0, 1.0),
        },
    ),
    CrossAttnCachePatch: (
        ["MODEL"],
        {"model": None, "start_percent": (0.75, 0.0, 1.0), "mode": ("cond", ["cond", "average", "uncond", "cfg"])},
    ),
    CFGCutoff: (["MODEL"], {"model": None, "start_percent": (0.75, 0.0, 1.0)}),
    PostDiffKSampler: (["LATENT", "MODEL"], KSAMPLER | {"preset": ("auto", PRESETS)}),
    PostDiffEmbeddedModel: (["MODEL", "CLIP", "VAE"], {}),
    PostDiffReport: (["LATENT", "STRING", "IMAGE"], {"model": None, "latent": None}),
    PostDiffCalibrate: (
        ["COMBO", "INT", "FLOAT", "FLOAT", "INT", "FLOAT", "FLOAT", "IMAGE", "STRING", "STRING"],
        {
            **dict.fromkeys(("model", "clip", "vae", "prompts", "negative")),
            "search": ("quick", ["quick", "thorough", "own lists"]),
            **dict.fromkeys(("steps", "low_res_scale", "low_res_until", "interval")),
            **dict.fromkeys(("deep_cache_start", "start_percent")),
            "min_speedup": (1.5, 1.0, 10.0),
            **dict.fromkeys(("sampler_name", "scheduler")),
            "cfg": (7.5, 0.0, 100.0),
            "width": (512, 64, 8192),
            "height": (512, 64, 8192),
            "first_seed": (1, 0, 2**63),
            "seeds": (2, 1, 100),
            "minutes": (15.0, 0.0, 10_000.0),
            **dict.fromkeys(("preset_name", "resume", "clip_vision", "score_clip")),
        },
    ),
}
PATCHES = {
    "mixed_resolution": MixedResolutionPatch,
    "deep_cache": DeepCachePatch,
    "cross_attn_cache": CrossAttnCachePatch,
    "cfg_cutoff": CFGCutoff,
}


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_the_node_is_the_one_that_workflows_know(node):
    outputs, expected = NODES[node]
    schema = node.define_schema()
    assert schema.node_id == node.__name__
    assert schema.category.startswith("PostDiff")
    assert [output.get_io_type() for output in schema.outputs] == outputs
    inputs = {declared.id: declared for declared in schema.inputs}
    assert list(inputs) == list(expected)
    for name, limits in expected.items():
        if limits is None:
            continue
        declared = inputs[name]
        assert declared.default == limits[0]
        if isinstance(limits[1], list):
            assert declared.options[: len(limits[1])] == limits[1]
        else:
            assert (declared.min, declared.max) == limits[1:]


@pytest.mark.parametrize("node", [MixedResolutionKSampler, PostDiffKSampler])
def test_the_samplers_take_what_the_stock_ksampler_takes(node):
    stock = comfy_nodes.KSampler.INPUT_TYPES()["required"]
    inputs = {declared.id: declared for declared in node.define_schema().inputs}
    for name, (kind, options) in stock.items():
        declared = inputs[name]
        assert declared.tooltip == options.get("tooltip")
        if isinstance(kind, list):
            assert (list(declared.options), declared.default) == (kind, kind[0])
        elif "default" in options:
            assert (declared.default, declared.min, declared.max) == tuple(
                options[k] for k in ("default", "min", "max")
            )


def with_inputs(monkeypatch, **declared):
    """As if the host's KSampler took these too, or declared them so."""
    stock = comfy_nodes.KSampler.INPUT_TYPES()
    stock["required"] |= declared
    monkeypatch.setattr(comfy_nodes.KSampler, "INPUT_TYPES", classmethod(lambda _: stock))


@pytest.mark.parametrize("node", [MixedResolutionKSampler, PostDiffKSampler, PostDiffCalibrate])
def test_a_fresh_node_samples_as_a_fresh_ksampler_does(node, monkeypatch):
    def chosen():
        inputs = {declared.id: declared for declared in node.define_schema().inputs}
        return inputs["sampler_name"].default, inputs["scheduler"].default

    schedulers = comfy_nodes.KSampler.INPUT_TYPES()["required"]["scheduler"][0]
    assert chosen() == ("euler", schedulers[0])
    with_inputs(
        monkeypatch, sampler_name=("COMBO", {"options": ["dpm", "heun"]}), scheduler=(["a", "b"], {"default": "b"})
    )
    assert chosen() == ("dpm", "b")


@pytest.mark.parametrize(
    ("kind", "options", "declared"),
    [
        ("BOOLEAN", {"default": True, "label_on": "yes"}, {"default": True, "label_on": "yes"}),
        ("STRING", {"default": "", "multiline": True, "dynamicPrompts": True}, {"default": "", "multiline": True}),
        ("INT", {"default": 3, "min": 1, "max": 9, "display": "slider", "id": "x"}, {"default": 3, "min": 1, "max": 9}),
        ("FLOAT", {"default": 0.5}, {"default": 0.5}),
        ("MASK", {"tooltip": "Where.", "newer": object()}, {"tooltip": "Where."}),
        (["a", "b"], None, {"options": ["a", "b"], "default": "a"}),
        ([], {"default": None}, {"options": []}),
    ],
    ids=lambda value: str(value) if isinstance(value, (str, list)) else "",
)
def test_an_input_that_a_newer_ksampler_adds_is_taken_over(kind, options, declared, monkeypatch):
    with_inputs(monkeypatch, novelty=(kind,) if options is None else (kind, options))
    for node in (MixedResolutionKSampler, PostDiffKSampler):
        inputs = node.GET_SCHEMA().get_v1_info(node).input["required"]
        taken_kind, taken = inputs["novelty"]
        assert taken_kind == (kind if isinstance(kind, str) else "COMBO")
        assert {name: taken[name] for name in declared} == declared
        assert not taken.keys() & {"newer", "display", "dynamicPrompts"}


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_setting_of_the_node_explains_itself(node):
    schema = node.define_schema()
    assert schema.description
    for declared in schema.inputs:
        assert declared.tooltip, declared.id


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_no_tooltip_begins_with_a_letter_of_the_papers(node):
    schema = node.define_schema()
    for declared in (*schema.inputs, *schema.outputs):
        assert not re.match(r"(beta|[Tskm])\b", declared.tooltip), declared.tooltip


def test_messages_name_the_patches_as_the_canvas_does():
    assert {name: info.node for name, info in TECHNIQUE_INFO.items()} == {
        name: node.define_schema().display_name for name, node in PATCHES.items()
    }
