"""What comes from outside does no harm: workflows with any values, damaged files. And the pack keeps to itself."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import execution
import folder_paths
import nodes as comfy_nodes
import pytest
import torch
from safetensors.torch import save_file

import api_form
import host
import pack
import pack_nodes
import postdiff
import source_rules
import tiny_models
from postdiff.embedded_model import loader
from postdiff.embedded_model.loader import EmbeddedModelError, load_embedded_model
from postdiff.nodes.embedded_model import PostDiffEmbeddedModel
from postdiff.nodes.mixed_resolution_ksampler import MixedResolutionKSampler
from postdiff.nodes.postdiff_calibrate import PostDiffCalibrate
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler
from postdiff.nodes.postdiff_report import PostDiffReport
from postdiff.postdiff_core import saved_presets
from reference import Techniques
from watch import watched

SOURCES = {
    "embedded": {"class_type": "PostDiffEmbeddedModel", "inputs": {}},
    "prompt": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["embedded", 1], "text": ""}},
    "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
}
LINKS = {
    "MODEL": ["embedded", 0],
    "CLIP": ["embedded", 1],
    "VAE": ["embedded", 2],
    "CONDITIONING": ["prompt", 0],
    "LATENT": ["empty", 0],
}
HOSTILE = {
    "not a number": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "huge": 10**40,
    "negative": -(10**40),
    "null": None,
    "nothing": "",
    "a word": "nonsense",
    "code": "__import__('os').system('true')",
    "a path": "../../../etc/passwd",
    "an object": {"a": 1},
    "a list": [1, 2, 3],
    "a list in an object": {"__value__": [1]},
}
REFUSED_WHEN_IT_RUNS = {("preset", "null")}  # when a prompt is checked, a link looks like that


class Refused:
    """A prompt of nodes that are each wrong in one input."""

    def __init__(self, object_info: api_form.ObjectInfo) -> None:
        self.prompt: dict[str, Any] = dict(SOURCES)
        self.wrong: dict[str, str] = {}
        for kind, info in object_info.items():
            if info["category"].partition("/")[0] == "PostDiff":
                self._add_all(kind, info)

    def _add_all(self, kind: str, info: dict[str, Any]) -> None:
        specs = info["input"].get("required", {})
        valid = {name: value_of(spec) for name, spec in specs.items()}
        for name, spec in specs.items():
            self._add(kind, f"{kind}.{name} is missing", {key: valid[key] for key in valid if key != name}, name)
            if spec[0] in ("INT", "FLOAT", "COMBO"):  # the host makes a string or a boolean of anything
                for how, value in HOSTILE.items():
                    if (name, how) not in REFUSED_WHEN_IT_RUNS:
                        self._add(kind, f"{kind}.{name} is {how}", valid | {name: value}, name)

    def _add(self, kind: str, case: str, inputs: dict[str, Any], wrong: str) -> None:
        self.wrong[case] = wrong
        self.prompt[case] = {"class_type": kind, "inputs": inputs}
        self.prompt[f"shown: {case}"] = {"class_type": "PreviewAny", "inputs": {"source": [case, 0]}}


def value_of(spec: list[Any]) -> Any:
    if not api_form.is_widget(spec):
        return LINKS[spec[0]]
    options = spec[1]
    return options["default"] if "default" in options else options["options"][0]


def test_every_wrong_value_in_a_prompt_is_refused_before_it_runs_with_its_field_named(server):
    refused = Refused(server.get("/object_info"))
    assert len(refused.wrong) > 300
    with pytest.raises(host.PromptError) as caught:
        server.run(refused.prompt)
    errors = caught.value.details["node_errors"]
    named = {
        case: {error["extra_info"]["input_name"] for error in errors.get(case, {"errors": []})["errors"]}
        for case in refused.wrong
    }
    assert {case: fields for case, fields in named.items() if fields != {refused.wrong[case]}} == {}


def test_values_that_are_right_are_not_refused(server):
    """Or the test above would see refusals for another reason."""
    refused = Refused(server.get("/object_info"))
    case = "CFGCutoff.start_percent is not a number"
    prompt = {**SOURCES, "node": refused.prompt[case], "shown": {"class_type": "PreviewAny", "inputs": {}}}
    prompt["node"]["inputs"]["start_percent"] = "0.5"
    prompt["shown"]["inputs"]["source"] = ["node", 0]
    assert server.run(prompt).reports("execution_success")


def node_classes() -> list[Any]:
    async def listed() -> list[Any]:
        return await (await postdiff.comfy_entrypoint()).get_node_list()

    return asyncio.run(listed())


@pytest.mark.parametrize("node", node_classes(), ids=lambda node: node.__name__)
def test_an_input_that_the_node_does_not_have_does_not_reach_it(node):
    reached, *_ = execution.get_input_data({"no_such_input": "../.."}, node, "1")
    assert reached == {}


def test_a_preset_that_is_no_text_is_refused_when_it_runs():
    with pytest.raises(ValueError, match="preset None"):
        PostDiffKSampler.execute(**tiny_models.sampler_inputs(tiny_models.small_unet()), preset=None)


# The source

MAY_WRITE = {"postdiff_core/disk.py", "postdiff_core/saved_presets.py", "postdiff_core/calibrate/store.py"}
SHIPPED = {module.relative_to(pack.ROOT).as_posix(): module for module in source_rules.shipped_modules(pack.ROOT)}


@pytest.mark.parametrize("module", SHIPPED)
def test_the_source_evaluates_nothing_opens_nothing_and_writes_only_where_it_is_known_to(module):
    source = SHIPPED[module].read_text(encoding="utf-8")
    assert source_rules.violations(source, may_write=module in MAY_WRITE) == []


def test_only_modules_that_may_write_can_have_a_file_written():
    users = {name for name, path in SHIPPED.items() if "import disk" in path.read_text(encoding="utf-8")}
    assert users == MAY_WRITE - {"postdiff_core/disk.py"}


def test_every_module_that_may_write_writes_into_the_users_folder():
    for module in MAY_WRITE & SHIPPED.keys():
        assert source_rules.violations(SHIPPED[module].read_text(encoding="utf-8")), f"{module} does not write"


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "run = exec",
        "import pickle",
        "import urllib.request",
        "from subprocess import run",
        "def load():\n    import socket",
        "os.system('true')",
        "weights = torch.load(path)",
        "torch.hub.load(name)",
        "@PromptServer.instance.routes.get('/postdiff')\nasync def answer(request): ...",
        "PromptServer.instance.app.router",
        "open(path, 'w')",
        "open(path, mode=mode)",
        "path.open('ab')",
        "path.write_text(text)",
        "save_file(weights, path)",
        "shutil.rmtree(path)",
    ],
)
def test_the_rules_of_the_source_find(source):
    assert len(source_rules.violations(source)) >= 1


@pytest.mark.parametrize("source", ["Path(__file__).parent", "Path.home()", "os.environ['HOME']", "import pickle"])
def test_a_module_that_may_write_must_not_choose_a_folder_itself(source):
    assert source_rules.violations(source, may_write=True)
    assert source_rules.violations("path.write_text('')\nimage = Image.open(path)", may_write=True) == []


# A run

ALL = Techniques(low_res_scale=0.5, low_res_until=0.4, interval=2, depth=2, cross_attn_start=0.5, cutoff_start=0.6)


def import_pack_again(name: str = "postdiff_once_more") -> None:
    spec = importlib.util.spec_from_file_location(
        name, pack.ROOT / "__init__.py", submodule_search_locations=[str(pack.ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    finally:
        for module in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[module]


INPUTS_OF_CALIBRATE = PostDiffCalibrate.define_schema().inputs
CALIBRATION = {each.id: each.default for each in INPUTS_OF_CALIBRATE if hasattr(each, "default")}
CALIBRATION |= {"search": "own lists", "steps": "3", "low_res_scale": "1", "low_res_until": "0", "interval": "2"}
CALIBRATION |= {"deep_cache_start": "0"}
CALIBRATION |= {"start_percent": "1", "min_speedup": 1.1, "seeds": 1, "width": 64, "height": 64}


def use_every_node(prefix: str, seed: int) -> None:
    """From the embedded model to saved pictures and a saved preset, as a graph does."""
    model, clip, vae = PostDiffEmbeddedModel.execute().args
    (positive,), (negative,) = (comfy_nodes.CLIPTextEncode().encode(clip, text) for text in ("noto fox", ""))
    (latent,) = comfy_nodes.EmptyLatentImage().generate(64, 64, 1)
    prompts = {"positive": positive, "negative": negative, "latent_image": latent}
    inputs = tiny_models.sampler_inputs(model, steps=4, **prompts)
    (made,) = comfy_nodes.KSampler().sample(**inputs | {"model": pack_nodes.patched(model, ALL)})
    mixed, _ = MixedResolutionKSampler.execute(**inputs, **pack_nodes.mixed_resolution_inputs(ALL)).args
    preset, ran = PostDiffKSampler.execute(**inputs, preset="auto").args
    _, _, timeline = PostDiffReport.execute(model=ran, latent=preset).args
    pictures = [comfy_nodes.VAEDecode().decode(vae, each)[0] for each in (made, mixed, preset)]
    comfy_nodes.SaveImage().save_images(torch.cat(pictures), prefix)
    comfy_nodes.PreviewImage().save_images(timeline, prefix)
    loaded = {"model": model, "clip": clip, "vae": vae}
    asked = {"prompts": "noto fox", "first_seed": seed, "preset_name": f"../../../{prefix}"}
    PostDiffCalibrate.execute(**CALIBRATION | loaded | asked)


def is_within(path: Path, folders: list[str]) -> bool:
    return any(path.is_relative_to(Path(folder).resolve()) for folder in folders)


def test_a_run_of_every_node_writes_in_comfyuis_folders_only_and_does_nothing_else_to_the_world():
    use_every_node("before", seed=1)  # torch and the host import and compile things when they are first used
    with watched() as seen:
        import_pack_again()
    assert seen.written == [] and seen.outside == []
    with watched() as seen:
        use_every_node("watched", seed=2)
    ours = [folder_paths.get_output_directory(), folder_paths.get_temp_directory(), folder_paths.get_user_directory()]
    assert any(path.suffix == ".png" for path in seen.written), "the watch does not see the pictures being written"
    assert saved_presets.folder() / "watched.json" in seen.written
    assert [path for path in seen.written if not is_within(path, ours)] == []
    assert seen.outside == []
    assert seen.code_made_in(pack.ROOT) == []  # the host's samplers define named tuples, which are evaluated


def test_the_watch_sees_what_a_run_must_not_do(tmp_path):
    with watched() as seen:
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        eval("1")  # noqa: S307
        host.free_port()
    assert {path.name for path in seen.written} == {"file", "folder"}
    assert ("exec", __file__) in seen.code_made_in(pack.ROOT) and "socket.bind" in dict(seen.outside)


# The embedded model's file


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    shutil.copy(loader.WEIGHTS, tmp_path)
    shutil.copy(loader.checksum_file(loader.WEIGHTS), tmp_path)
    return tmp_path / loader.WEIGHTS.name


def record_checksum(weights: Path) -> None:
    loader.checksum_file(weights).write_text(f"{loader.sha256(weights)}  {weights.name}\n")


def assert_refused(weights: Path, named: Path) -> None:
    """With an error that names the file and the remedy."""
    with pytest.raises(EmbeddedModelError, match="git checkout") as caught:
        load_embedded_model(weights)
    assert str(named) in str(caught.value)


@pytest.mark.parametrize("length", [0, 4, 1000, -1])
def test_a_truncated_file_is_named_with_the_remedy(weights, length):
    weights.write_bytes(weights.read_bytes()[:length])
    assert_refused(weights, weights)


@pytest.mark.parametrize("length", [0, 4, 1000, -1])
def test_a_truncated_file_is_named_with_the_remedy_even_if_its_checksum_is_right(weights, length):
    """Recorded anew by somebody who packed the damaged file."""
    weights.write_bytes(weights.read_bytes()[:length])
    record_checksum(weights)
    assert_refused(weights, weights)


def test_weights_of_another_model_are_named_with_the_remedy(weights):
    save_file({"some.weight": torch.zeros(2)}, weights)
    record_checksum(weights)
    assert_refused(weights, weights)


@pytest.mark.parametrize("text", ["", "\n", "0" * 64, "not a checksum"])
def test_a_damaged_checksum_is_named_with_the_remedy(weights, text):
    loader.checksum_file(weights).write_text(text)
    assert_refused(weights, weights)


def test_a_pickle_under_the_name_of_the_weights_is_not_loaded(weights):
    torch.save({"some.weight": torch.zeros(2)}, weights)
    record_checksum(weights)
    with watched() as seen:
        assert_refused(weights, weights)
    assert not [event for event, _ in seen.code if event.startswith("pickle")]
