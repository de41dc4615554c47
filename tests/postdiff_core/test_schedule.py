"""The step arithmetic, on vectors that were written without it."""

import json
import math
import runpy
from pathlib import Path

import comfy.samplers
import pytest

import tiny_models
from postdiff.postdiff_core import schedule
from postdiff.postdiff_core.architecture import sigma_at

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
PLANS = json.loads((VECTORS / "schedule.json").read_text(encoding="utf-8"))
SIGMAS = json.loads((VECTORS / "sigmas.json").read_text(encoding="utf-8"))


def settings(document):
    return schedule.Settings(**{name: schedule.TECHNIQUES[name](**fields) for name, fields in document.items()})


def plan(total, fields, **options):
    def reached(fraction):
        return schedule.step_at_uniform_timesteps(total, fraction)

    return schedule.plan(settings(fields), total, reached, **options)


@pytest.mark.parametrize("case", PLANS, ids=lambda case: case["name"])
def test_the_plan_is_that_of_the_vector(case):
    planned = plan(case["total"], case["settings"])
    assert [step.document() for step in planned.steps] == case["plan"]
    assert [step.index for step in planned.steps] == list(range(case["total"]))
    assert len(planned.notes) == case["notes"]
    assert planned.low_res_steps == sum(step["stage"] == "low" for step in case["plan"])


def test_the_vectors_are_what_their_generator_writes():
    generate = runpy.run_path(str(VECTORS / "generate.py"))
    assert generate["text"]() == (VECTORS / "schedule.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", SIGMAS["reached"], ids=lambda case: case["why"])
def test_a_threshold_is_reached_at_the_first_sigma_at_or_below_it(case):
    assert schedule.step_at_sigma(case["sigmas"], case["threshold"]) == case["step"]


@pytest.mark.parametrize("case", SIGMAS["current"], ids=lambda case: case["why"])
def test_an_evaluation_belongs_to_the_step_it_started_from(case):
    assert schedule.current_step(case["sigmas"], case["sigma"], range(*case["stage"])) == case["step"]


@pytest.mark.parametrize("case", SIGMAS["low_size"], ids=lambda case: case["why"])
def test_low_sizes_are_those_of_the_vector(case):
    low = schedule.low_size(*case["size"], case["scale"], case["multiple"], case.get("smallest_mean", 0))
    assert list(low) == case["low"]


@pytest.mark.parametrize("multiple", [2, 4])
@pytest.mark.parametrize("scale", [0.5, 0.6, 0.75])
@pytest.mark.parametrize("size", [(96, 64), (80, 64), (104, 80), (128, 72), (100, 75), (152, 104), (168, 96)])
def test_a_low_size_keeps_the_aspect_ratio_and_about_the_scale(size, scale, multiple):
    (height, width), (low_height, low_width) = size, schedule.low_size(*size, scale, multiple)
    assert low_height % multiple == low_width % multiple == 0
    assert low_height / low_width == pytest.approx(height / width, rel=0.042)
    assert math.sqrt(low_height * low_width / (height * width)) == pytest.approx(scale, rel=0.07)


@pytest.mark.parametrize("scheduler", ["simple", "sgm_uniform", "normal"])
@pytest.mark.parametrize(
    ("total", "fraction", "step"),
    [(20, 0.5, 10), (20, 0.2, 4), (20, 0.75, 15), (8, 0.5, 4), (8, 0.0, 0), (8, 1.0, 8), (4, 0.5, 2)],
)
@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.lcm])
def test_the_papers_fractions_are_reached_at_its_steps_under_the_hosts_schedulers(
    build, scheduler, total, fraction, step
):
    sampling = build().get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, total).tolist()
    assert schedule.step_at_sigma(sigmas, sigma_at(sampling, fraction)) == step
    assert schedule.step_at_uniform_timesteps(total, fraction) == step


@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.sdxl, tiny_models.pixart_alpha, tiny_models.auraflow])
def test_a_fraction_of_the_timesteps_is_the_hosts(build):
    sampling = build().get_model_object("model_sampling")
    for fraction in (0.0, 0.2, 0.5, 0.75, 1.0):
        assert sigma_at(sampling, fraction) == sampling.percent_to_sigma(fraction)


def test_without_a_lower_resolution_there_is_no_stage_for_it():
    fields = {"mixed_resolution": {"low_res_until": 0.5}, "deep_cache": {"interval": 4}}
    planned = plan(10, fields, can_lower_resolution=False)
    assert planned.low_res_steps == 0
    assert [step.deep for step in planned.steps] == ["refresh", "reuse", "reuse", "reuse"] * 2 + ["refresh", "reuse"]


def test_the_steps_of_a_stage():
    planned = plan(10, {"mixed_resolution": {"low_res_until": 0.3}})
    assert planned.stage_of(2) == range(3)
    assert planned.stage_of(3) == range(3, 10)


def test_the_first_steps_of_reuse_and_of_no_guidance():
    planned = plan(10, {"cross_attn_cache": {"start_percent": 0.4}, "cfg_cutoff": {"start_percent": 0.7}})
    assert (planned.cross_attn_start, planned.guidance_stop) == (4, 7)
    assert (plan(10, {}).cross_attn_start, plan(10, {}).guidance_stop) == (10, 10)


@pytest.mark.parametrize("case", PLANS, ids=lambda case: case["name"])
def test_a_deep_feature_is_kept_only_where_the_next_step_reuses_it(case):
    planned = plan(case["total"], case["settings"])
    for i, step in enumerate(case["plan"]):
        following = case["plan"][i + 1] if i + 1 < case["total"] else {"deep": "off"}
        assert planned.deep_feature_is_reused_after(i) == (following["deep"] == "reuse"), (i, step)


@pytest.mark.parametrize("case", PLANS, ids=lambda case: case["name"])
def test_every_layers_latest_output_before_c_is_recorded(case):
    """A step records if nothing after it and before c runs all layers again; no step records without a c."""
    planned = plan(case["total"], case["settings"])
    states = [step["xattn"] for step in case["plan"]]
    start = states.index("reuse") if "reuse" in states else 0
    for i in range(case["total"]):
        superseded = any(later["deep"] != "reuse" for later in case["plan"][i + 1 : start])
        assert planned.cross_attn_is_recorded_in(i) == (i < start and not superseded), i


@pytest.mark.parametrize(
    ("technique", "fields", "named"),
    [
        (schedule.MixedResolution, {"low_res_scale": 0.2}, "low_res_scale"),
        (schedule.MixedResolution, {"low_res_scale": 1.01}, "low_res_scale"),
        (schedule.MixedResolution, {"low_res_until": -0.1}, "low_res_until"),
        (schedule.MixedResolution, {"low_res_until": math.nan}, "low_res_until"),
        (schedule.MixedResolution, {"upscale_method": "lanczos"}, "upscale_method"),
        (schedule.MixedResolution, {"switch": "best"}, "switch"),
        (schedule.DeepCache, {"interval": 0}, "interval"),
        (schedule.DeepCache, {"interval": 21}, "interval"),
        (schedule.DeepCache, {"interval": 2.5}, "interval.*whole number"),
        (schedule.DeepCache, {"depth": 2.0}, "depth.*whole number"),
        (schedule.DeepCache, {"depth": 0}, "depth"),
        (schedule.DeepCache, {"depth": 12}, "depth"),
        (schedule.DeepCache, {"start_percent": 0.5, "end_percent": 0.5}, "empty"),
        (schedule.DeepCache, {"start_percent": 0.8, "end_percent": 0.2}, "empty"),
        (schedule.CrossAttnCache, {"start_percent": 1.5}, "start_percent"),
        (schedule.CrossAttnCache, {"mode": "mean"}, "mode"),
        (schedule.CFGCutoff, {"start_percent": -1.0}, "start_percent"),
    ],
)
def test_values_out_of_range_are_refused_by_name_and_value(technique, fields, named):
    with pytest.raises(ValueError, match=named) as refusal:
        technique(**fields)
    for value in fields.values():
        assert str(value) in str(refusal.value)


def test_the_defaults_are_those_of_the_paper():
    mixed, deep = schedule.MixedResolution(), schedule.DeepCache()
    assert (mixed.low_res_scale, mixed.low_res_until, mixed.upscale_method) == (0.5, 0.5, "bilinear")
    assert (deep.interval, deep.depth, deep.start_percent, deep.end_percent) == (2, 2, 0.0, 1.0)
    assert (schedule.CrossAttnCache().start_percent, schedule.CrossAttnCache().mode) == (0.75, "cond")
    assert schedule.CFGCutoff().start_percent == 0.75
