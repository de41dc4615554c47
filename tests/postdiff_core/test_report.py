"""What a report says of a run. Its counts of work: test_executed_work.py."""

import comfy.samplers
import pytest
from comfy_extras.nodes_custom_sampler import CFGOverride, SamplerCustom

import pack_nodes
import tiny_models
from postdiff.postdiff_core import patch, report_picture, schedule
from postdiff.postdiff_core.report import summary
from reference import EVERYTHING, Techniques

STEPS = 6


def sample(model):
    return tiny_models.stock_sample(model, steps=STEPS, scheduler="simple")


def test_the_report_says_what_was_done():
    model = tiny_models.sd15()
    patched = pack_nodes.patched(model, EVERYTHING)
    sample(patched)
    report = pack_nodes.report(patched)
    assert report["plan"] == [
        {"stage": "low", "deep": "refresh", "xattn": "compute", "cfg": "on"},
        {"stage": "low", "deep": "reuse", "xattn": "compute", "cfg": "on"},
        {"stage": "low", "deep": "refresh", "xattn": "compute", "cfg": "on"},
        {"stage": "full", "deep": "refresh", "xattn": "compute", "cfg": "on"},
        {"stage": "full", "deep": "reuse", "xattn": "reuse", "cfg": "on"},
        {"stage": "full", "deep": "refresh", "xattn": "reuse", "cfg": "off"},
    ]
    assert (report["size"], report["low_size"]) == ([16, 16], [8, 8])
    assert len(report["steps"]) == STEPS and all(step["seconds"] > 0 for step in report["steps"])
    assert report["totals"]["seconds"] == pytest.approx(sum(step["seconds"] for step in report["steps"]))
    assert report["totals"]["macs"] == sum(step["macs"] for step in report["steps"])
    assert report["totals"]["work_saved"] == pytest.approx(
        1 - report["totals"]["macs"] / report["totals"]["macs_stock"]
    )
    assert report["cached_bytes"] >= 2 * 32 * 16 * 16 * 4
    assert report["notes"] == []


@pytest.mark.parametrize(
    ("cfg", "start", "ends"), [(5.0, 0.5, ", 3 unguided."), (5.0, 0.0, ", 6 unguided."), (1.0, 0.5, None)]
)
def test_the_summary_counts_steps_without_guidance_only_where_there_was_some_to_drop(cfg, start, ends):
    patched = pack_nodes.with_cfg_cutoff(tiny_models.small_unet(), Techniques(cutoff_start=start))
    tiny_models.stock_sample(patched, steps=STEPS, scheduler="sgm_uniform", cfg=cfg)
    report = pack_nodes.report(patched)
    assert report["has_guidance"] == (ends is not None)
    done, _ = summary(report)
    assert done.endswith(ends or "reused cross-attention.")


def test_a_run_of_full_cost_steps_only_is_as_fast_as_itself():
    patched = pack_nodes.with_cfg_cutoff(tiny_models.sd15(), Techniques(cutoff_start=0.7))
    sample(patched)
    assert pack_nodes.report(patched)["totals"]["speedup"] > 0
    unguided = pack_nodes.with_cfg_cutoff(tiny_models.sd15(), Techniques(cutoff_start=0.0))
    sample(unguided)
    assert pack_nodes.report(unguided)["totals"]["speedup"] is None


def test_a_run_that_saves_nothing_has_no_speed_up():
    model = patch.add(tiny_models.small_unet(), schedule.CFGCutoff(1.0))
    tiny_models.stock_sample(model, steps=4)
    assert patch.carried_by(model).last_report["totals"]["speedup"] is None


def test_no_step_takes_negative_time_where_a_sampler_goes_back():
    """The adaptive sampler goes back before a step that it finds too long."""
    patched = pack_nodes.patched(tiny_models.small_unet(), EVERYTHING)
    inputs = tiny_models.sampler_inputs(patched)
    given = {name: inputs[name] for name in ("model", "cfg", "positive", "negative", "latent_image")}
    sampler = comfy.samplers.ksampler("dpm_adaptive", {"h_init": 2.0})
    sigmas = comfy.samplers.calculate_sigmas(patched.get_model_object("model_sampling"), "simple", 20)
    SamplerCustom.execute(**given, add_noise=True, noise_seed=1, sampler=sampler, sigmas=sigmas)
    report = pack_nodes.report(patched)
    assert all(step["seconds"] is None or step["seconds"] >= 0 for step in report["steps"])
    report_picture.draw(report)


def test_the_caches_are_empty_when_the_report_is_made(monkeypatch):
    held, document = [], patch.report.document

    def recording(run, *arguments, **named):
        held.append([cache.bytes for cache in run._caches])
        return document(run, *arguments, **named)

    monkeypatch.setattr(patch.report, "document", recording)
    tiny_models.stock_sample(pack_nodes.patched(tiny_models.small_unet(), EVERYTHING))
    assert held and set(*held) == {0}


@pytest.mark.parametrize(("cfg", "states"), [(5.0, ["on"] * 3 + ["off"] * 3), (1.0, ["off"] * 6)])
def test_the_report_shows_guidance_where_it_ran(cfg, states):
    """At cfg 1 the host evaluates no negative prompt, so that there is none to cut off."""
    patched = pack_nodes.with_cfg_cutoff(tiny_models.small_unet(), Techniques(cutoff_start=0.5))
    tiny_models.stock_sample(patched, steps=STEPS, scheduler="simple", cfg=cfg)
    report = pack_nodes.report(patched)
    assert [step["cfg"] for step in report["plan"]] == states
    assert (report["totals"]["speedup"] is None) == (cfg == 1.0)
    assert [note.partition(" does nothing")[0] for note in report["notes"]] == ["CFG Cut-off"] * (cfg == 1.0)


def test_where_another_node_stops_guidance_the_report_shows_it_and_times_those_steps_apart():
    model = CFGOverride.execute(tiny_models.small_unet(), 1.0, 0.5, 1.0).args[0]
    patched = pack_nodes.with_deep_cache(model, Techniques(interval=2, depth=2, deep_end=0.5))
    sample(patched)
    report = pack_nodes.report(patched)
    assert [step["cfg"] for step in report["plan"]] == ["on"] * 3 + ["off"] * 3
    assert report["totals"]["speedup"] is not None


def test_at_cfg_1_a_presets_cut_off_is_not_missed():
    """LCM's has one, for runs with a little guidance."""
    patched = patch.fill(tiny_models.lcm(), schedule.Settings(cfg_cutoff=schedule.CFGCutoff(0.5)))
    tiny_models.stock_sample(patched, cfg=1.0, sampler_name="lcm")
    assert pack_nodes.report(patched)["notes"] == []


def test_work_that_cannot_be_counted_is_noted_without_a_warning(caplog):
    patched = patch.add(tiny_models.auraflow(), schedule.CFGCutoff(0.5))
    tiny_models.stock_sample(patched)
    (note,) = pack_nodes.report(patched)["notes"]
    assert note.startswith("Work is not counted")
    assert not any(record.levelname == "WARNING" and note in record.message for record in caplog.records)
