"""PostDiffCalibrate on a tiny random model: what it gives, keeps, refuses, and how it goes on after an interruption."""

import itertools
import json
import zlib

import comfy.model_management
import comfy.utils
import nodes as comfy_nodes
import pytest
import torch
from PIL import Image

import pack_nodes
import tiny_models
import tiny_pipeline
from postdiff.nodes.cfg_cutoff import CFGCutoff
from postdiff.nodes.cross_attn_cache_patch import CrossAttnCachePatch
from postdiff.nodes.deep_cache_patch import DeepCachePatch
from postdiff.nodes.mixed_resolution_ksampler import MixedResolutionKSampler
from postdiff.nodes.postdiff_calibrate import PostDiffCalibrate
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler
from postdiff.postdiff_core import presets, saved_presets, schedule
from postdiff.postdiff_core.calibrate import frontier_picture, request
from postdiff.postdiff_core.calibrate.progress import Progress
from postdiff.postdiff_core.calibrate.runs import Runs

SCHEMA = PostDiffCalibrate.define_schema()
OUTPUTS = [output.display_name for output in SCHEMA.outputs]
DEFAULTS = {declared.id: declared.default for declared in SCHEMA.inputs if hasattr(declared, "default")}
SMALL = {
    "prompts": "one\n\n  two  \none",
    "search": "own lists",
    "steps": "5",
    "low_res_scale": "0.5",
    "low_res_until": "0.5",
    "interval": "1, 2",
    "deep_cache_start": "0",
    "start_percent": "0.5, 1",
    "min_speedup": 1.2,
    "width": 64,
    "height": 64,
    "cfg": 4.0,
}
CANDIDATES, PICTURES = 3, 4  # the uncached run is no candidate: the others are compared with it


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.get_system_user_directory", lambda name: str(tmp_path / name))


@pytest.fixture
def drawn(monkeypatch):
    """The runs made, each replaced by noise that the caches change a little, and without the picture of the outcome."""
    made = []

    def noise(*seeds):
        return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(zlib.crc32(repr(seeds).encode())))

    def draw(self, candidate, picture):
        made.append((candidate, picture))
        harm = 0.1 * (candidate.interval - 1) + 0.05 * (1 - candidate.start_percent)
        return noise(picture, candidate.low_res_scale, candidate.low_res_until) + harm * noise(picture, candidate)

    monkeypatch.setattr(Runs, "_draw", draw)
    monkeypatch.setattr(frontier_picture, "draw", lambda *_: Image.new("RGB", (8, 8)))
    return made


@pytest.fixture(scope="module")
def pipeline():
    return {"model": tiny_models.small_unet(), "clip": tiny_pipeline.Clip(), "vae": tiny_pipeline.Vae()}


def calibrate(pipeline, **given):
    node = PostDiffCalibrate.execute(**{**DEFAULTS, **SMALL, **pipeline, **given})
    return dict(zip(OUTPUTS, node.args, strict=True))


def found(outputs):
    return json.loads(outputs["results"])


@pytest.mark.parametrize("deep_cache_start", ["0", "0.25"])
def test_wires_and_preset_say_the_same_and_give_the_same_latent(pipeline, deep_cache_start):
    before = tiny_models.stock_sample(pipeline["model"])
    out = calibrate(pipeline, prompts="one", interval="2", deep_cache_start=deep_cache_start)
    assert torch.equal(tiny_models.stock_sample(pipeline["model"]), before), "the model given was changed"
    assert out["preset"] in presets.choices()
    assert out["picture"].shape[3] == 3 and out["picture"].shape[2] == frontier_picture.WIDTH
    sampling = tiny_models.sampler_inputs(pipeline["model"], steps=out["steps"])
    by_preset = PostDiffKSampler.execute(**sampling, preset=out["preset"]).args[0]["samples"]
    model = DeepCachePatch.execute(sampling.pop("model"), out["interval"], 2, out["deep_cache_start"], 1.0).args[0]
    model = CrossAttnCachePatch.execute(model, out["start_percent"], "cond").args[0]
    model = CFGCutoff.execute(model, out["start_percent"]).args[0]
    wired = {name: out[name] for name in ("low_res_scale", "low_res_until")} | {"upscale_method": "bilinear"}
    by_wires = MixedResolutionKSampler.execute(model=model, **sampling, **wired).args[0]["samples"]
    assert torch.equal(by_preset, by_wires)
    assert not torch.equal(by_preset, tiny_models.stock_sample(pipeline["model"], steps=out["steps"]))


def test_every_picture_is_drawn_once_and_the_losers_draw_fewer(pipeline, drawn):
    out = calibrate(pipeline)
    assert len(drawn) == len(set(drawn))
    searched = [each for each in drawn if each[0].settings != presets.Settings()]
    assert len(searched) == CANDIDATES + 2 * (PICTURES - 1) + PICTURES
    assert sorted(row["pictures"] for row in found(out)["rows"]) == [1, PICTURES, PICTURES]
    assert found(out)["complete"]


def test_the_same_again_draws_nothing_and_finds_the_same(pipeline, drawn):
    first = calibrate(pipeline)
    drawn.clear()
    second = calibrate(pipeline)
    assert drawn == []
    assert second["preset"] == first["preset"]
    assert [row["score"] for row in found(second)["rows"]] == [row["score"] for row in found(first)["rows"]]
    calibrate(pipeline, resume=False)
    assert drawn != []


@pytest.mark.parametrize("after", [1, 5, 9])
def test_an_interrupted_calibration_goes_on_where_it_was_and_keeps_the_best_so_far(pipeline, drawn, monkeypatch, after):
    undisturbed = calibrate(pipeline, preset_name="undisturbed")
    whole = set(drawn)
    calibrate(pipeline, resume=False, minutes=0.0)  # forgets, and draws as little as it may
    del drawn[: len(whole)]
    callback = Progress.__call__

    def interrupt(self, calibration):
        callback(self, calibration)
        if calibration.search.measurements[0] == after:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(Progress, "__call__", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        calibrate(pipeline, preset_name="so far")
    assert "so far" in saved_presets.names()
    monkeypatch.setattr(Progress, "__call__", callback)
    resumed = calibrate(pipeline, preset_name="resumed")
    assert set(drawn) == whole and len(drawn) == len(whole)
    assert found(resumed)["chosen"]["settings"] == found(undisturbed)["chosen"]["settings"]
    assert resumed["table"].count("\n") == undisturbed["table"].count("\n")


def test_an_interruption_inside_a_run_loses_that_run_only(pipeline, monkeypatch):
    made, draw, checks = [], Runs._draw, itertools.count()

    def counting(self, candidate, picture):
        made.append((candidate, picture))
        return draw(self, candidate, picture)

    def interrupt():
        if next(checks) == 3000:  # the host asks before every layer
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(Runs, "_draw", counting)
    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        calibrate(pipeline)
    broken_off = made[-1]
    calibrate(pipeline)
    assert [each for each in made if made.count(each) > 1] == [broken_off] * 2


def test_an_interruption_leaves_a_preset_that_is_there_as_it_is(pipeline, monkeypatch, drawn):
    calibrate(pipeline, preset_name="mine")
    before = (saved_presets.folder() / "mine.json").read_text()

    def interrupt(self, calibration):
        if calibration.search.measurements[0] == 2:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(Progress, "__call__", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        calibrate(pipeline, preset_name="mine", start_percent="0.7, 0.5")
    assert (saved_presets.folder() / "mine.json").read_text() == before


def test_when_the_time_is_up_the_best_so_far_is_given(pipeline, drawn):
    out = calibrate(pipeline, minutes=0.0)
    assert not found(out)["complete"]
    assert [row["pictures"] for row in found(out)["rows"]] == [1]
    assert len(drawn) <= 3  # the candidate, its reference, the stock run as an example


def test_queued_again_a_search_without_time_goes_on_by_a_picture_at_least(pipeline, drawn):
    def pictures():
        return sum(row["pictures"] for row in found(calibrate(pipeline, minutes=0.0))["rows"])

    counts = [pictures() for _ in range(3)]
    assert counts[0] < counts[1] < counts[2]


def test_with_clip_vision_all_settings_are_ranked_against_the_stock_run(pipeline, drawn):
    out = calibrate(pipeline, clip_vision=tiny_pipeline.ClipVision(), low_res_scale="0.5, 0.75, 1")
    document = found(out)
    assert document["score"] == "CLIP score"
    assert document["stock"]["times_less_work"] == pytest.approx(1)
    assert {row["low_res_scale"] for row in document["rows"]} == {0.5, 0.75, 1.0}
    gain = document["chosen"]["score"] - document["stock"]["score"]
    assert document["gain_over_stock"]["mean"] == pytest.approx(gain)


def test_pictures_that_fit_other_prompts_as_well_cast_doubt_on_the_score(pipeline, drawn):
    out = calibrate(pipeline, clip_vision=tiny_pipeline.ClipVision(), prompts="\n".join("abcdef"), seeds=1)
    assert any("may not belong to one family" in note for note in found(out)["notes"])
    assert "may not belong to one family" in out["table"]


def test_quick_without_clip_vision_takes_the_familys_own_change_of_resolution(pipeline, drawn):
    out = calibrate(pipeline, search="quick", min_speedup=1.5, width=512, height=512)
    rows = found(out)["rows"]
    assert {(row["low_res_scale"], row["low_res_until"]) for row in rows} == {(0.75, 0.5)}  # SD1.5's at 512 pixels
    assert {(row["interval"], row["deep_cache_start"]) for row in rows} == {(1, 0.0), (2, 0.0), (2, 0.25)}


@pytest.mark.parametrize("search", ["own lists", "quick"])
def test_resolution_changes_as_the_familys_does_but_for_the_lists(pipeline, drawn, monkeypatch, search):
    own = schedule.MixedResolution(0.5, 0.5, "nearest-exact", "matched")
    monkeypatch.setitem(presets.PRESETS, "sd15", schedule.Settings(own))
    calibrate(pipeline, search=search, min_speedup=1.5, width=512, height=512)
    changes = [candidate.settings.mixed_resolution for candidate, _ in drawn]
    assert any(changes) and {(each.upscale_method, each.switch) for each in changes if each} == {
        ("nearest-exact", "matched")
    }


@pytest.mark.parametrize(
    ("given", "pictures"),
    [({}, 9), ({"clip_vision": tiny_pipeline.ClipVision()}, 4 + 2 + 4 + 4)],  # the stock run's four are the last
    ids=["similarity", "clip score"],
)
def test_progress_only_grows_and_says_how_long_it_takes(pipeline, monkeypatch, drawn, given, pictures):
    lines, ticks = [], []
    monkeypatch.setattr("postdiff.nodes.postdiff_calibrate.show_text", lambda node, line: lines.append(line))
    monkeypatch.setattr("postdiff.postdiff_core.calibrate.progress.SHOW_SECONDS", 0.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, *_, **__: ticks.append(value / total))
    calibrate(pipeline, **given)
    assert ticks == sorted(ticks) and ticks[-1] == 1.0
    assert lines[0].startswith(f"0 of {pictures} pictures")
    assert lines[-2].startswith(f"{pictures} of {pictures} pictures") and "left" in lines[-3]
    assert lines[-1].startswith("Chosen: 5 steps") and lines[-1].endswith("Saved as the preset my model.")
    assert any("left" in line and "best so far: 5 steps" in line for line in lines)


def test_a_transformer_is_calibrated_without_a_deep_cache():
    model = tiny_models.pixart_alpha()
    clip = tiny_pipeline.Clip(width=24)
    pixart = {"model": model, "clip": clip, "vae": tiny_pipeline.Vae()}
    out = calibrate(pixart, prompts="one", seeds=1, width=544, height=544)
    assert {row["interval"] for row in found(out)["rows"]} == {1}


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"prompts": " \n "}, "prompts is empty"),
        ({"preset_name": "auto"}, "'auto', which is a built-in preset"),
        ({"preset_name": "***"}, "is not a valid preset name"),
        ({"steps": "many"}, "steps is 'many': give whole numbers with commas"),
        ({"steps": "0, 8"}, "steps is '0, 8': a run takes at least 1 step"),
        ({"start_percent": ""}, "start_percent is ''"),
        ({"start_percent": "nan"}, r"start_percent \(m\) is nan"),
        ({"deep_cache_start": "0, 1"}, "deep_cache_start is '0, 1': give fractions of the schedule"),
        ({"deep_cache_start": "nan"}, "deep_cache_start is 'nan'"),
        ({"low_res_scale": "2"}, r"low_res_scale \(beta\) is 2.0"),
        ({"low_res_until": "-0.5"}, r"low_res_until \(s\) is -0.5"),
        ({"low_res_scale": "0.1"}, r"low_res_scale \(beta\) is 0.1"),
        ({"low_res_scale": "0.5, 0.75"}, "Without clip_vision.*0.5 / 0.5, 0.75 / 0.5.*Connect clip_vision"),
        ({"min_speedup": 9.0}, "does 9 times less work.*The cheapest, 5 steps.*lower min_speedup"),
        ({"interval": "1", "start_percent": "1"}, "nothing but the run that all others are compared with"),
        ({"clip_vision": tiny_pipeline.ClipVision(5)}, "5 numbers a picture.*8 a prompt.*CLIPLoader"),
        (
            {"clip_vision": tiny_pipeline.ClipVision(), "score_clip": tiny_pipeline.Clip(6)},
            "8 numbers a picture.*6 a prompt",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_remedy(pipeline, drawn, given, refusal):
    with pytest.raises(ValueError, match=refusal):
        calibrate(pipeline, **given)
    assert drawn == []


def test_a_refused_request_forgets_nothing(pipeline, drawn):
    calibrate(pipeline)
    drawn.clear()
    with pytest.raises(ValueError, match="lower min_speedup"):
        calibrate(pipeline, resume=False, min_speedup=9.0)
    calibrate(pipeline)
    assert drawn == []


def test_a_model_that_carries_settings_already_is_refused(pipeline):
    model = pack_nodes.with_cfg_cutoff(pipeline["model"], pack_nodes.NEUTRAL)
    with pytest.raises(ValueError, match="connect it before those nodes"):
        calibrate(pipeline | {"model": model})


def test_a_node_that_takes_no_low_resolution_is_named_with_the_remedy(pipeline):
    """All its runs would be at full size, and priced as if they were not."""
    model = pipeline["model"].clone()
    model.set_model_input_block_patch(lambda h, options: h + h.new_zeros(8, 1) if options["block"][1] == 1 else h)
    calibrate(pipeline | {"model": model}, prompts="one", low_res_scale="1")
    with pytest.raises(ValueError, match=r"begins at 4x4.*Calibrate the model without the node that fails, or"):
        calibrate(pipeline | {"model": model}, prompts="one")


@pytest.mark.parametrize("of_nan", ["decoded", "latent"])
def test_a_picture_that_is_not_finite_is_named_with_the_remedy_and_not_kept(pipeline, monkeypatch, of_nan):
    class Overflowing(tiny_pipeline.Vae):
        def decode(self, latent):
            return super().decode(latent) * torch.nan

    with monkeypatch.context() as patched:
        if of_nan == "latent":
            patched.setattr(Runs, "_draw", lambda self, *_: torch.full((1, 4, *self.size), torch.nan))
        vae = Overflowing() if of_nan == "decoded" else pipeline["vae"]
        with pytest.raises(ValueError, match=r"'one' with seed 1 by 5 steps.*not finite.*--fp32-vae"):
            calibrate(pipeline | {"vae": vae}, prompts="one")
    assert found(calibrate(pipeline, prompts="one"))["complete"]


def test_every_input_explains_itself_and_samples_as_the_stock_ksampler_does():
    assert all(declared.tooltip for declared in SCHEMA.inputs)
    stock = comfy_nodes.KSampler.INPUT_TYPES()["required"]
    declared = {each.id: each for each in SCHEMA.inputs}
    for name in ("sampler_name", "scheduler"):
        assert list(declared[name].options) == list(stock[name][0])
    assert declared["search"].options == [*request.SEARCHES, request.OWN_LISTS]
