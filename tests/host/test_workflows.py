"""Every shipped workflow, end to end in the real server: with the embedded model as it is, the others on stand-ins.

A stand-in is a small model file in the layout and under the name that a workflow asks for (support/stand_ins.py).
Pictures are smaller and runs shorter than the workflows say; nothing else is changed.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw

import api_form
import host
import stand_ins
import workflows
from pack import ROOT
from postdiff.postdiff_core.presets import PRESETS
from postdiff.postdiff_core.schedule import Settings

HERE = Path(__file__).resolve().parent
SHIPPED = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
PATHS = {name: path for name, path in SHIPPED.items() if not name.startswith("calibrate")}  # test_calibrate.py has it
EMBEDDED = [name for name in PATHS if name.startswith("embedded_model")]
STEPS = {"pixart_alpha_side_by_side": 4}
MIN_STEPS = 6
SIDES = {"sdxl_side_by_side": 128, "pixart_alpha_side_by_side": 384}  # the smallest that have a smaller low size
SIDE = 32
PRESET = {"lcm_side_by_side": "lcm", "sdxl_side_by_side": "sdxl", "pixart_alpha_side_by_side": "pixart_alpha"}
LIGHT_LOADERS = {  # where the full text encoders would be gigabytes
    "sdxl_side_by_side": ("CheckpointLoaderSimple", "PostDiffTestCheckpointLoader"),
    "pixart_alpha_side_by_side": ("CLIPLoader", "PostDiffTestTextEncoderLoader"),
}
SHOWING = ("SaveImage", "PreviewImage", "PostDiffReport")
LENGTHS = ("width", "height", "x", "y", "left", "top", "right", "bottom")
Prompt = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that finds the stand-ins, and a small picture in place of ComfyUI's example."""
    folder = tmp_path_factory.mktemp("stand-ins")
    stand_ins.write(folder / "models")
    (folder / "input").mkdir()
    disc().save(folder / "input" / "example.png")
    kinds = {name.split("/")[0] for name in stand_ins.FILES}
    places = {
        "stand_ins": {"base_path": str(folder / "models"), **{kind: kind for kind in kinds}},
        "tests": {"base_path": str(HERE), "custom_nodes": "custom_nodes"},
    }
    paths = folder / "paths.yaml"
    paths.write_text(json.dumps(places), encoding="utf-8")  # JSON is YAML
    flags = ("--extra-model-paths-config", str(paths), "--input-directory", str(folder / "input"))
    with host.serving("--cpu", *flags) as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server):
    return server.get("/object_info")


def disc() -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).ellipse((6, 6, 26, 26), fill="navy")
    return picture


def prompt_of(name: str, object_info: api_form.ObjectInfo) -> Prompt:
    """A shipped workflow in API form, its runs shortened and its pictures made small."""
    api = api_form.load(PATHS[name], object_info)
    for node in api.values():
        inputs = node["inputs"]
        if "steps" in inputs:
            inputs["steps"] = steps_of(name)
        if name not in EMBEDDED and node["class_type"] != "CLIPTextEncodePixArtAlpha":
            inputs.update({key: scaled(value, name) for key, value in inputs.items() if key in LENGTHS})
        was, instead = LIGHT_LOADERS.get(name, ("", ""))
        if node["class_type"] == was:
            node["class_type"] = instead
    return api


def steps_of(name: str) -> int:
    return STEPS.get(name, MIN_STEPS)


def scaled(length: int, name: str) -> int:
    stock = 768 if SIDES.get(name, SIDE) == SIDE else 1024
    return length * SIDES.get(name, SIDE) // stock


def settings_of(name: str) -> Settings:
    return PRESETS[PRESET.get(name, "embedded" if name in EMBEDDED else "sd15")]


def states(settings: Settings, cfg: float) -> dict[str, set[str]]:
    """What a plan with these settings must go through, lane by lane; at cfg 1 there is no guidance to stop."""
    before = {"off"} if settings.deep_cache and settings.deep_cache.start_percent else set()
    return {
        "stage": {"low", "full"} if settings.mixed_resolution else {"full"},
        "deep": {"refresh", "reuse"} | before if settings.deep_cache else {"off"},
        "xattn": {"compute", "reuse"} if settings.cross_attn_cache else {"off"},
        "cfg": {"off"} if cfg == 1.0 else {"on", "off"} if settings.cfg_cutoff else {"on"},
    }


def titled(api: Prompt, title: str) -> str:
    (found,) = (name for name, node in api.items() if node["_meta"]["title"] == title)
    return found


@pytest.fixture(scope="module", params=list(PATHS))
def finished(request, server, object_info):
    """Name, API form and run of one shipped workflow."""
    api = prompt_of(request.param, object_info)
    return request.param, api, server.run(copy.deepcopy(api))


def test_every_picture_of_a_workflow_is_drawn(server, finished):
    _, api, run = finished
    shown = {name for name, node in api.items() if node["class_type"] in SHOWING}
    assert set(run.images()) >= shown
    for name in shown:
        low, high = server.fetch(run.images()[name][0]).convert("L").getextrema()
        assert high > low, f"{name} is blank"


def test_every_technique_of_the_preset_acts_and_saves_work(finished):
    name, api, run = finished
    report = run.reports("postdiff.report")[-1]["report"]
    (cfg,) = {node["inputs"]["cfg"] for node in api.values() if "cfg" in node["inputs"]}
    assert len(report["plan"]) == steps_of(name)
    found = {lane: {step[lane] for step in report["plan"]} for lane in report["plan"][0]}
    assert found == states(settings_of(name), cfg)
    assert report["totals"]["work_saved"] > 0.2
    assert report["notes"] == []


def test_stock_and_postdiff_draw_two_pictures(server, finished):
    _, api, run = finished
    stock, postdiff = (server.fetch(run.images()[titled(api, title)][0]) for title in ("Stock", "With PostDiff"))
    assert stock.size == postdiff.size
    assert ImageChops.difference(stock, postdiff).getbbox() is not None


def test_both_runs_of_a_workflow_have_the_same_seed_prompt_and_settings(object_info):
    for path in PATHS.values():
        api = api_form.load(path, object_info)
        kinds = ("SamplerCustomAdvanced",) * 2 if "custom" in path.stem else ("KSampler", "PostDiffKSampler")
        saved = [api[titled(api, title)] for title in ("Stock", "With PostDiff")]
        stock, postdiff = (nearest(api, save, kind) for save, kind in zip(saved, kinds, strict=True))
        differing = {name for name in stock["inputs"] if stock["inputs"][name] != postdiff["inputs"][name]}
        assert differing <= {"guider"}, path.stem


def nearest(api: Prompt, node: dict[str, Any], kind: str) -> dict[str, Any]:
    """The node of a kind that a node's inputs lead back to."""
    waiting = [node]
    while waiting:
        at = waiting.pop(0)
        if at["class_type"] == kind:
            return at
        waiting += [api[value[0]] for value in at["inputs"].values() if isinstance(value, list)]
    raise AssertionError(f"There is no {kind} before {node['_meta']['title']}.")


def test_inpainting_leaves_the_rest_of_the_picture_alone(server, object_info):
    api = prompt_of("embedded_model_inpainting", object_info)
    images = server.run(api).images()
    before, stock, postdiff = (
        server.fetch(images[titled(api, title)][0]) for title in ("Before", "Stock", "With PostDiff")
    )
    for after in (stock, postdiff):
        assert largest_difference(before, after, kept) <= 8  # the autoencoder looks a little over the edge
        assert largest_difference(before, after, repainted) > 64


def kept(picture: Image.Image) -> Image.Image:
    return picture.crop((0, 0, picture.width, picture.height // 4))


def repainted(picture: Image.Image) -> Image.Image:
    return picture.crop((0, picture.height // 2, picture.width, picture.height))


def largest_difference(first: Image.Image, second: Image.Image, part: Any) -> int:
    return max(high for _, high in ImageChops.difference(part(first), part(second)).getextrema())


def test_the_files_are_what_their_tool_writes(object_info):
    """Else: python dev.py workflows"""
    assert workflows.written(object_info) == {name: path.read_text(encoding="utf-8") for name, path in SHIPPED.items()}


def test_every_model_file_a_workflow_names_has_a_stand_in(object_info):
    named = set()
    for path in PATHS.values():
        for node in api_form.load(path, object_info).values():
            named |= {value for value in node["inputs"].values() if str(value).endswith(".safetensors")}
    assert named == set(workflows.MODELS)
    assert {f"{folder}/{name}" for name, (folder, _) in workflows.MODELS.items()} == set(stand_ins.FILES)
