"""Prompts, clones and patches that share one loaded model keep to themselves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from safetensors.torch import load_file

import host
import pack_nodes
import stock_mixed_resolution as by_hand
import tiny_models
from postdiff.nodes.mixed_resolution_ksampler import MixedResolutionKSampler
from postdiff.postdiff_core.techniques import TECHNIQUE_INFO
from reference import Techniques

DEEP = {"interval": 2, "depth": 2, "start_percent": 0.0, "end_percent": 1.0}
SETTINGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "stock": [],
    "deep cache": [("DeepCachePatch", DEEP)],
    "another deep cache": [("DeepCachePatch", DEEP | {"interval": 3, "depth": 1})],
    "all": [
        ("DeepCachePatch", DEEP),
        ("CrossAttnCachePatch", {"start_percent": 0.5, "mode": "average"}),
        ("CFGCutoff", {"start_percent": 0.6}),
        ("MixedResolutionPatch", {"low_res_scale": 0.5, "low_res_until": 0.4, "upscale_method": "bilinear"}),
    ],
}


def prompt(patches: list[tuple[str, dict[str, Any]]], load: str) -> dict[str, Any]:
    """The embedded model with these patches, sampled at 128 x 128 pixels.

    Prompts of the same `load` share one model: the server keeps it by its node's inputs, though the node ignores them.
    """
    graph: dict[str, Any] = {
        "model": {"class_type": "PostDiffEmbeddedModel", "inputs": {"ignored": load}},
        "positive": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": "noto red apple"}},
        "negative": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    }
    last = "model"
    for number, (kind, values) in enumerate(patches):
        graph[f"patch {number}"] = {"class_type": kind, "inputs": {"model": [last, 0], **values}}
        last = f"patch {number}"
    sampling = {"seed": 7, "steps": 6, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {name: [name, 0] for name in ("positive", "negative")} | {"model": [last, 0], "latent_image": ["latent", 0]}
    graph["sampler"] = {"class_type": "KSampler", "inputs": sampling | links}
    graph["save"] = {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "latent"}}
    return graph


def latent_of(server: host.Server, run: host.Run) -> torch.Tensor:
    (saved,) = (data["output"]["latents"] for data in run.reports("executed") if data["node"] == "save")
    return load_file(server.log.parent / "output" / saved[0]["subfolder"] / saved[0]["filename"])["latent_tensor"]


def plans_of(run: host.Run) -> list[tuple[str, list[dict[str, str]]]]:
    return [(plan["node"], plan["plan"]) for plan in run.reports("postdiff.plan")]


def test_prompts_queued_together_on_one_cached_model_run_as_if_alone(server):
    """Alone: on a model of their own."""
    alone = {name: server.run(prompt(patches, load=name)) for name, patches in SETTINGS.items()}
    with ThreadPoolExecutor(len(SETTINGS)) as pool:
        runs = pool.map(lambda patches: server.run(prompt(patches, load="shared")), SETTINGS.values())
        queued = dict(zip(SETTINGS, runs, strict=True))
    for name, run in queued.items():
        assert torch.equal(latent_of(server, run), latent_of(server, alone[name])), name
        assert plans_of(run) == plans_of(alone[name])
        assert {node for node, _ in plans_of(run)} == {f"patch {number}" for number in range(len(SETTINGS[name]))}
    loads = [name for name, run in queued.items() if "model" in run.node_seconds()]
    assert len(loads) == 1, "the prompts did not share one model"
    pictures = [latent_of(server, run) for run in queued.values()]
    assert all(not torch.equal(one, other) for i, one in enumerate(pictures) for other in pictures[:i])


FIRST = Techniques(low_res_scale=0.5, low_res_until=0.4, interval=2, depth=2, cross_attn_start=0.5, cutoff_start=0.6)
SECOND = Techniques(low_res_scale=0.75, low_res_until=0.6, interval=3, depth=1, cross_attn_start=0.3, mode="average")


def test_clones_of_one_model_with_other_patches_keep_to_themselves():
    model = tiny_models.small_unet()
    stock = tiny_models.stock_sample(model)
    alone = [tiny_models.stock_sample(pack_nodes.patched(tiny_models.small_unet(), each)) for each in (FIRST, SECOND)]
    first, second = (pack_nodes.patched(model, each) for each in (FIRST, SECOND))
    for one, expected in ((first, alone[0]), (second, alone[1]), (first, alone[0]), (model, stock), (second, alone[1])):
        assert torch.equal(tiny_models.stock_sample(one), expected)
    assert pack_nodes.report(first)["low_size"] == [8, 8]
    assert pack_nodes.report(second)["low_size"] == [12, 12]


def test_a_model_that_runs_while_another_runs_keeps_to_itself():
    """From the progress callback, as nodes do that sample details while a picture is being made.

    Of two models: the host itself cannot run one within a run of it.
    """
    first = pack_nodes.patched(tiny_models.small_unet(), FIRST)
    second = pack_nodes.patched(tiny_models.small_unet(seed=1), SECOND)
    alone, inner = tiny_models.stock_sample(second), []
    expected = with_callback(first, None)
    latent = with_callback(first, lambda *_: inner.append(tiny_models.stock_sample(second)))
    assert torch.equal(latent, expected)
    assert len(inner) == 6 and all(torch.equal(each, alone) for each in inner)


def with_callback(model: Any, callback: Any) -> torch.Tensor:
    inputs = tiny_models.sampler_inputs(model)
    guider = by_hand.cfg_guider(model, inputs["positive"], inputs["negative"], inputs["cfg"])
    picture = inputs["latent_image"]["samples"]
    noise = comfy.sample.prepare_noise(picture, inputs["seed"])
    sampler = comfy.samplers.sampler_object(inputs["sampler_name"])
    return guider.sample(
        noise, picture, sampler, by_hand.sigmas_of(inputs), callback=callback, disable_pbar=True, seed=inputs["seed"]
    )


TWICE = {
    "mixed_resolution": (pack_nodes.with_mixed_resolution, {"low_res_scale": 0.5, "low_res_until": 0.4}),
    "deep_cache": (pack_nodes.with_deep_cache, {"interval": 2, "depth": 2}),
    "cross_attn_cache": (pack_nodes.with_cross_attn_cache, {"cross_attn_start": 0.5}),
    "cfg_cutoff": (pack_nodes.with_cfg_cutoff, {"cutoff_start": 0.5}),
}
BEFORE = Techniques(
    low_res_scale=0.75, low_res_until=0.6, interval=3, depth=1, cross_attn_start=0.2, cutoff_start=0.2, mode="uncond"
)


@pytest.mark.parametrize("name", TWICE)
def test_of_the_same_patch_twice_the_later_holds_once_and_it_is_said_once(name, caplog):
    patch, settings = TWICE[name]
    model, later = tiny_models.small_unet(), Techniques(**settings)
    once, twice = patch(model, later), patch(patch(model, BEFORE), later)
    assert torch.equal(tiny_models.stock_sample(twice), tiny_models.stock_sample(once))
    assert pack_nodes.report(once)["notes"] == []
    (note,) = pack_nodes.report(twice)["notes"]
    assert (
        note.startswith(f"{TECHNIQUE_INFO[name].title} is applied twice")
        and sum(note in said for said in caplog.messages) == 1
    )
    assert not torch.equal(tiny_models.stock_sample(twice), tiny_models.stock_sample(patch(model, BEFORE)))


def test_a_sampler_nodes_own_settings_hold_over_the_patch_before_it():
    inputs = tiny_models.sampler_inputs(tiny_models.small_unet())
    later = Techniques(low_res_scale=0.5, low_res_until=0.4)
    patched = pack_nodes.with_mixed_resolution(inputs["model"], BEFORE)
    latent, ran = MixedResolutionKSampler.execute(
        **inputs | {"model": patched}, **pack_nodes.mixed_resolution_inputs(later)
    ).args
    assert torch.equal(latent["samples"], pack_nodes.sample(later, inputs=inputs))
    assert "twice" in pack_nodes.report(ran)["notes"][0]
