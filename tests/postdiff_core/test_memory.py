"""What the caches hold: planned, counted and told to ComfyUI."""

import comfy.model_base
import comfy.model_management
import pytest
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode

import full_size_models
import tiny_models
from postdiff.postdiff_core import cross_attn_sites, patch
from postdiff.postdiff_core.memory import Rows, cached_values, most_rows
from postdiff.postdiff_core.presets import PRESETS
from postdiff.postdiff_core.schedule import (
    CFGCutoff,
    CrossAttnCache,
    DeepCache,
    MixedResolution,
    Settings,
    plan,
    step_at_uniform_timesteps,
)

OTHERS = {
    "both rows reuse their own": Settings(None, DeepCache(3, 1), CrossAttnCache(0.5), None),
    "rows are mixed": Settings(MixedResolution(0.5, 0.5), None, CrossAttnCache(0.3, "average"), CFGCutoff(0.6)),
}


def layout(settings, steps):
    return plan(settings, steps, lambda fraction: step_at_uniform_timesteps(steps, fraction))


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, PRESETS[name]) for name in ("sd15", "sdxl", "pixart_alpha")), *(("sd15", s) for s in OTHERS.values())],
    ids=["sd15", "sdxl", "pixart_alpha", *OTHERS],
)
def test_what_is_planned_is_what_a_run_holds_at_most(name, settings):
    model = tiny_models.MODELS[name]()
    patched = patch.fill(model, settings)
    tiny_models.stock_sample(patched, steps=8, latent_image=tiny_models.latent(model, batch=2))
    report = patch.carried_by(patched).last_report
    low = tuple(report["low_size"]) if report["low_size"] else None
    held = cached_values(model.model.diffusion_model, layout(settings, 8), settings, tuple(report["size"]), low)
    assert report["cached_bytes"] == held * 2 * 4 > 0  # two pictures in float32


@pytest.mark.parametrize("settings", [PRESETS["sd15"], *OTHERS.values()], ids=["sd15", *OTHERS])
def test_combined_prompts_are_planned_for_with_a_row_each(settings):
    assert planned_and_held(settings, [{}, {}, {}]) == (Rows(positive=3, every=4), True)


@pytest.mark.parametrize("change", [0.5, 0.75, 0.8])
def test_a_prompt_that_follows_another_is_planned_for_with_it_where_they_meet(change):
    prompts = [{"end_percent": change}, {"start_percent": change}]
    assert planned_and_held(PRESETS["sd15"], prompts) == (Rows(positive=2, every=3), True)


def planned_and_held(settings, ranges):
    """The rows that are planned for positive prompts of these ranges, and whether a run holds no more than that."""
    model = tiny_models.sd15()
    patched = patch.fill(model, settings)
    prompts = [entry for i, each in enumerate(ranges) for entry in tiny_models.conditioning(model, seed=i + 5, **each)]
    rows = most_rows({"positive": [values for _, values in prompts], "negative": [{}]}, settings)
    tiny_models.stock_sample(patched, steps=8, positive=prompts)
    report = patch.carried_by(patched).last_report
    low = tuple(report["low_size"]) if report["low_size"] else None
    held = cached_values(model.model.diffusion_model, layout(settings, 8), settings, tuple(report["size"]), low, rows)
    return rows, 0 < report["cached_bytes"] <= held * 4


def test_only_prompts_that_are_kept_together_are_planned_for():
    papers, nothing_cached = PRESETS["sd15"], Settings()
    early, late, always = {"end_percent": 0.4}, {"start_percent": 0.5}, {}
    assert most_rows({"positive": [early, late], "negative": [always]}, papers) == Rows(positive=1, every=2)
    assert most_rows({"positive": [early, late, always], "negative": [always]}, papers) == Rows(positive=2, every=3)
    scheduled = [{"clip_start_percent": 0.0, "clip_end_percent": 0.4}, {"clip_start_percent": 0.5}]
    assert most_rows({"positive": scheduled, "negative": scheduled}, papers) == Rows(positive=1, every=2)
    one_by_one = [{"start_percent": begin, "end_percent": begin + 0.05} for begin in (0.7, 0.8, 0.9)]
    assert most_rows({"positive": one_by_one}, papers) == Rows(positive=3, every=3)  # none is dropped
    assert most_rows({"positive": one_by_one}, nothing_cached) == Rows(positive=1, every=1)


def test_where_guidance_is_not_dropped_every_row_is_planned_for():
    three = {"positive": [{}, {}], "middle": [{}], "negative": None}
    assert most_rows(three, PRESETS["sd15"]) == Rows(positive=3, every=3)


@pytest.mark.parametrize(
    ("name", "settings_of", "steps", "side", "scale", "most_mb"),
    [
        ("sd15", "sd15", 20, 96, 0.5, 150),
        ("sd15", "lcm", 8, 96, 0.5, 150),
        ("sdxl", "sdxl", 20, 128, 0.75, 450),
        ("pixart_alpha", "pixart_alpha", 20, 128, 0.75, 300),
    ],
)
def test_the_paper_settings_hold_little_in_16_bit(name, settings_of, steps, side, scale, most_mb):
    model, low = getattr(full_size_models, name)(), int(side * scale)
    settings = PRESETS[settings_of]
    held = cached_values(model.diffusion_model, layout(settings, steps), settings, (side, side), (low, low))
    assert 0 < held * 2 < most_mb * 1e6


@pytest.mark.parametrize("prompts", [1, 3])
def test_comfyui_is_told_before_it_loads_the_model(monkeypatch, prompts):
    asked = []
    load = comfy.model_management.load_models_gpu

    def recording(models, **given):
        asked.append((given["memory_required"], given["minimum_memory_required"]))
        return load(models, **given)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", recording)
    model = tiny_models.sd15()
    positive = [entry for seed in range(1, prompts + 1) for entry in tiny_models.conditioning(model, seed=seed)]
    tiny_models.stock_sample(model, positive=positive)
    patched = patch.fill(model, PRESETS["sd15"])
    tiny_models.stock_sample(patched, positive=positive)
    stock, *stages = asked
    cached = patch.carried_by(patched).last_report["cached_bytes"]
    (both,) = stages  # planned for the full size, and not loaded again at the switch
    assert all(wanted >= usual + cached for wanted, usual in zip(both, stock, strict=True))


def unloaded_by_another(executor, *arguments, **given):
    samples = executor(*arguments, **given)
    comfy.model_management.unload_all_models()
    return samples


def partly_unloaded_by_another(executor, *arguments, **given):
    samples = executor(*arguments, **given)
    (model,) = comfy.model_management.loaded_models()
    model.partially_unload(model.offload_device, 1e32)
    return samples


def prepared_by_another(executor, *arguments, **given):
    return executor(*arguments, **given)


@pytest.mark.parametrize(
    ("kind", "wrapper"),
    [
        (WrappersMP.OUTER_SAMPLE, unloaded_by_another),
        (WrappersMP.OUTER_SAMPLE, partly_unloaded_by_another),
        (WrappersMP.PREPARE_SAMPLING, prepared_by_another),
    ],
)
def test_a_stage_is_prepared_again_where_another_node_needs_that(kind, wrapper, monkeypatch):
    loads = []
    load = comfy.model_management.load_models_gpu
    monkeypatch.setattr(
        comfy.model_management, "load_models_gpu", lambda *models, **given: loads.append(1) or load(*models, **given)
    )
    model = patch.add(tiny_models.small_unet(), MixedResolution(0.5, 0.5))
    model.add_wrapper_with_key(kind, "another", wrapper)
    tiny_models.stock_sample(model)
    assert len(loads) == 2


@pytest.mark.parametrize("build", [tiny_models.wan, tiny_models.sd15])
def test_where_windows_are_evaluated_one_by_one_a_window_is_planned_for(build, monkeypatch):
    asked = []
    load = comfy.model_management.load_models_gpu

    def recording(models, **given):
        asked.append(given["memory_required"])
        return load(models, **given)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", recording)
    model, frames = build(), 12
    is_video = model.model.latent_format.latent_dimensions == 3
    samples = tiny_models.latent(model, batch=1 if is_video else frames)["samples"]
    samples = samples[:, :, :1].repeat(1, 1, frames, 1, 1) if is_video else samples
    windows = {"context_length": 4, "context_overlap": 1, "dim": 2 if is_video else 0}
    windowed = model_from(ContextWindowsManualNode, model, windows)
    for each in (model, windowed, patch.add(windowed, CFGCutoff(0.5))):
        tiny_models.stock_sample(each, latent_image={"samples": samples})
    whole, window, cut_off = asked
    assert cut_off == window < whole


def test_where_windows_divide_a_side_a_window_is_planned_for_at_both_sizes(monkeypatch):
    planned = []
    memory_required = comfy.model_base.BaseModel.memory_required

    def recording(self, shape, *args, **given):
        planned.append(tuple(shape[-2:]))
        return memory_required(self, shape, *args, **given)

    model = tiny_models.sd15()
    windowed = model_from(ContextWindowsManualNode, model, {"context_length": 8, "context_overlap": 2, "dim": 3})
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required", recording)
    tiny_models.stock_sample(
        patch.add(windowed, MixedResolution(0.75, 0.5)), latent_image=tiny_models.latent(model, 16, 32)
    )
    heights, widths = ({shape[axis] for shape in planned} for axis in (0, 1))
    assert heights == {12, 16}
    assert max(widths) < 16


def model_from(node, model, given):
    """The node's MODEL, its other inputs at their defaults."""
    inputs = {
        each.id: each.default for each in node.define_schema().inputs if getattr(each, "default", None) is not None
    }
    return node.execute(**{**inputs, **given, "model": model}).args[0]


def test_planning_looks_through_the_network_once_a_size(monkeypatch):
    looked = []
    find_sites = cross_attn_sites.find_sites
    monkeypatch.setattr(cross_attn_sites, "find_sites", lambda network: looked.append(1) or find_sites(network))
    model = tiny_models.sd15()
    cached_values(model.model.diffusion_model, layout(PRESETS["sd15"], 20), PRESETS["sd15"], (16, 16), (8, 8))
    assert 1 <= len(looked) <= 2
