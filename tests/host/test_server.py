"""The pack in a real server, over HTTP and the websocket."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import ImageStat

import api_form
import host
import pack

NODES = {
    "MixedResolutionKSampler",
    "MixedResolutionPatch",
    "DeepCachePatch",
    "CrossAttnCachePatch",
    "CFGCutoff",
    "PostDiffKSampler",
    "PostDiffEmbeddedModel",
    "PostDiffReport",
    "PostDiffCalibrate",
}
SAMPLERS = ("MixedResolutionKSampler", "PostDiffKSampler")


@pytest.fixture(scope="module")
def object_info(server):
    return server.get("/object_info")


def test_every_node_is_on_the_canvas_menu_under_postdiff(object_info):
    found = {name for name, info in object_info.items() if info["category"].partition("/")[0] == "PostDiff"}
    assert found == NODES


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_samplers_inputs_begin_with_the_stock_ksamplers(object_info, sampler):
    def inputs(name):
        return [(key, kind) for key, (kind, *_) in object_info[name]["input"]["required"].items()]

    def described(name, key):
        options = object_info[name]["input"]["required"][key][1]
        return {each: options.get(each) for each in ("default", "min", "max", "tooltip", "control_after_generate")}

    stock = inputs("KSampler")
    own = inputs(sampler)
    assert [key for key, _ in own[: len(stock)]] == [key for key, _ in stock]
    for key, kind in stock:
        if not isinstance(kind, list):
            assert described(sampler, key) == described("KSampler", key)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_samplers_offer_every_sampler_and_scheduler_of_the_host(object_info, sampler):
    def choices(name, key):
        kind, options = object_info[name]["input"]["required"][key]
        return kind if isinstance(kind, list) else options["options"]

    for key in ("sampler_name", "scheduler"):
        assert choices(sampler, key) == choices("KSampler", key)


def test_every_setting_says_what_it_does(object_info):
    for name in NODES:
        for key, (kind, *options) in object_info[name]["input"].get("required", {}).items():
            assert options and options[0].get("tooltip"), f"{name}.{key} ({kind}) has no tooltip"


def refused(server, kind: str, **inputs) -> dict[str, str]:
    """The inputs the server names when it refuses a node with these values, and the kind of each complaint."""
    prompt = {
        "1": {"class_type": "PostDiffEmbeddedModel", "inputs": {}},
        "2": {"class_type": kind, "inputs": {"model": ["1", 0], **inputs}},
        "3": {"class_type": "ModelSave", "inputs": {"model": ["2", 0], "filename_prefix": "never"}},
    }
    with pytest.raises(host.PromptError) as caught:
        server.run(prompt)
    errors = caught.value.details["node_errors"]["2"]["errors"]
    for error in errors:
        assert error["extra_info"]["input_name"] in str(caught.value)
    return {error["extra_info"]["input_name"]: error["type"] for error in errors}


CROSS = {"start_percent": 0.75, "mode": "cond"}
MIXED = {"low_res_scale": 0.5, "low_res_until": 0.5, "upscale_method": "bilinear"}
DEEP = {"interval": 2, "depth": 2, "start_percent": 0.0, "end_percent": 1.0}


@pytest.mark.parametrize(
    ("kind", "valid", "wrong", "complaint"),
    [
        ("MixedResolutionPatch", MIXED, {"low_res_scale": 0.1}, "value_smaller_than_min"),
        ("MixedResolutionPatch", MIXED, {"low_res_until": 1.5}, "value_bigger_than_max"),
        ("MixedResolutionPatch", MIXED, {"upscale_method": "magic"}, "value_not_in_list"),
        ("DeepCachePatch", DEEP, {"interval": 0}, "value_smaller_than_min"),
        ("DeepCachePatch", DEEP, {"interval": 21}, "value_bigger_than_max"),
        ("DeepCachePatch", DEEP, {"depth": 12}, "value_bigger_than_max"),
        ("DeepCachePatch", DEEP, {"start_percent": "soon"}, "invalid_input_type"),
        ("CrossAttnCachePatch", CROSS, {"mode": "all"}, "value_not_in_list"),
        ("CrossAttnCachePatch", CROSS, {"start_percent": -1}, "value_smaller_than_min"),
        ("CFGCutoff", {"start_percent": 0.75}, {"start_percent": 2}, "value_bigger_than_max"),
    ],
)
def test_a_bad_value_is_refused_with_its_field_named(server, kind, valid, wrong, complaint):
    (field,) = wrong
    assert refused(server, kind, **{**valid, **wrong}) == {field: complaint}


def test_a_missing_value_is_refused_with_its_field_named(server):
    assert refused(server, "CFGCutoff") == {"start_percent": "required_input_missing"}


def test_a_patch_on_a_model_it_cannot_act_on_fails_in_the_canvas_with_the_node_named(server):
    prompt = {
        "1": {"class_type": "PostDiffEmbeddedModel", "inputs": {}},
        "2": {"class_type": "DeepCachePatch", "inputs": {"model": ["1", 0], **DEEP, "depth": 11}},
        "3": {"class_type": "ModelSave", "inputs": {"model": ["2", 0], "filename_prefix": "never"}},
    }
    with pytest.raises(host.PromptError, match=r"DeepCachePatch \(2\): .*depth 11"):
        server.run(prompt)


def test_the_first_workflow_draws_its_pictures(server, object_info):
    prompt = api_form.load(pack.ROOT / "workflows" / "embedded_model_side_by_side.json", object_info)
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 4
    pictures = [server.fetch(image) for images in server.run(prompt).images().values() for image in images]
    assert [picture.size for picture in pictures] == [(256, 256)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    for picture in pictures:
        assert ImageStat.Stat(picture).stddev != pytest.approx([0, 0, 0], abs=5), "an empty picture"


SAMPLING = {"seed": 1, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


def test_events_of_a_run_go_to_the_nodes_of_the_graph_that_is_run(server):
    """The host hands a MODEL that it has cached to a node of another graph; both patched it under their own ids."""

    def graph(patch, sampler, seed):
        prompts = {"positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
        sampling = {
            "seed": seed,
            "steps": 4,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
        }
        return {
            "1": {"class_type": "PostDiffEmbeddedModel", "inputs": {}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "noto fox"}},
            "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            patch: {"class_type": "CFGCutoff", "inputs": {"model": ["1", 0], "start_percent": 0.5}},
            sampler: {"class_type": "KSampler", "inputs": {"model": [patch, 0], **prompts, **sampling}},
            "9": {"class_type": "SaveLatent", "inputs": {"samples": [sampler, 0], "filename_prefix": "ids"}},
        }

    for patch, sampler, seed in (("4", "5", 1), ("6", "7", 2)):
        reports = server.run(graph(patch, sampler, seed)).reports("postdiff.report")
        assert [(each["node"], each["sampler_node"]) for each in reports] == [(patch, sampler)]


def test_a_report_without_a_run_says_so_and_the_picture_is_saved(server):
    prompts = {"positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
    prompt = {
        "1": {"class_type": "PostDiffEmbeddedModel", "inputs": {}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "noto fox"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], **prompts, **SAMPLING}},
        "5": {"class_type": "PostDiffReport", "inputs": {"model": ["1", 0], "latent": ["4", 0]}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "unreported"}},
    }
    run = server.run(prompt)
    assert set(run.images()) == {"5", "7"}
    (text,) = (each["output"]["text"] for each in run.reports("executed") if each["node"] == "5")
    assert text[0].startswith("Nothing to report") and text[1] == "null"


def files_and_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_a_run_saves_its_picture_outside_the_comfyui_tree(server):
    before = files_and_times(pack.comfyui_path())
    image = {"class_type": "EmptyImage", "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": 255}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test"}}
    run = server.run({"1": image, "2": save})
    (saved,) = run.images()["2"]
    assert server.fetch(saved).getpixel((0, 0)) == (0, 0, 255)
    assert files_and_times(pack.comfyui_path()) == before


def test_serve_opens_the_canvas_with_the_pack_and_keeps_its_files_in_the_cache_folder(tmp_path):
    before, cache = files_and_times(pack.comfyui_path()), tmp_path / "a cache"
    line = [sys.executable, str(pack.ROOT / "dev.py"), "serve", "--cpu", "--disable-auto-launch", "--port"]
    served = host.Server(f"http://127.0.0.1:{(port := host.free_port())}", tmp_path / "log")
    with open(served.log, "wb") as log:
        process = subprocess.Popen([*line, str(port)], stderr=log, env={**os.environ, "POSTDIFF_CACHE": str(cache)})
    try:
        host.wait_until_ready(process, served)
        assert set(served.get("/object_info")) >= NODES
    finally:
        host.stop(process)
    assert (cache / "canvas" / "user" / "comfyui.db").is_file()
    assert files_and_times(pack.comfyui_path()) == before


def test_a_server_that_cannot_start_says_why():
    with pytest.raises(RuntimeError, match="unrecognized arguments: --no-such-flag"), host.serving("--no-such-flag"):
        pass
