"""PostDiffKSampler runs the settings of section 3.1 for the family of the model it is given."""

import logging

import pytest
import torch

import pack_nodes
import tiny_models
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler
from postdiff.postdiff_core import presets, saved_presets
from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, Settings
from reference import Techniques

SD15 = Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, depth=2, cross_attn_start=0.75, cutoff_start=0.75)
LCM = Techniques(low_res_scale=0.5, low_res_until=0.5, cross_attn_start=0.5, cutoff_start=0.5)
PIXART = Techniques(low_res_scale=0.75, low_res_until=0.5, cross_attn_start=0.75, cutoff_start=0.75)
UNKNOWN = Techniques(low_res_scale=0.75, low_res_until=0.2, cutoff_start=0.75)
LCM_SAMPLING = {"sampler_name": "lcm", "cfg": 1.0}


def inputs_for(model, side=32, **given):
    side = 68 if tiny_models.is_transformer(model) else side
    picture = tiny_models.latent(model, side, side)
    return tiny_models.sampler_inputs(model, **({"steps": 8, "scheduler": "simple", "latent_image": picture} | given))


def sample(inputs, preset):
    return PostDiffKSampler.execute(**inputs, preset=preset).args


def stages(report):
    return [step["stage"] for step in report["plan"]].count("low")


@pytest.mark.parametrize(
    ("build", "sampling", "techniques"),
    [
        (tiny_models.sd15, {}, SD15),
        (tiny_models.lcm, LCM_SAMPLING, LCM),
        (tiny_models.sd15, {"cfg": 1.2}, LCM),
        (tiny_models.pixart_alpha, {}, PIXART),
        (tiny_models.auraflow, {}, UNKNOWN),
    ],
    ids=["sd15", "lcm", "distilled by its guidance", "pixart", "unknown"],
)
def test_auto_recognises_the_model_and_runs_the_papers_settings(build, sampling, techniques, monkeypatch):
    monkeypatch.setitem(presets.TRAINED_SIDES, "sd15", 16)  # half of a small latent is then large enough
    inputs = inputs_for(build(), side=24, **sampling)
    latent, _ = sample(inputs, "auto")
    assert torch.equal(latent["samples"], pack_nodes.sample(techniques, inputs=inputs))
    assert not torch.equal(latent["samples"], tiny_models.stock_sample(**inputs))


def test_auto_runs_sdxl_at_three_quarters_for_a_fifth_of_the_steps():
    model = tiny_models.sdxl()
    _, ran = sample(inputs_for(model, side=128, steps=10), "auto")
    report = pack_nodes.report(ran)
    assert (report["low_size"], stages(report)) == ([96, 96], 2)
    assert [step["deep"] for step in report["plan"]] == ["refresh", "reuse"] * 5
    assert [step["cfg"] for step in report["plan"]] == ["on"] * 8 + ["off"] * 2
    assert [step["xattn"] for step in report["plan"]] == ["compute"] * 8 + ["reuse"] * 2


@pytest.mark.parametrize(
    ("build", "size", "low_size"),
    [
        (tiny_models.sd15, (96, 96), [48, 48]),
        (tiny_models.sd15, (64, 64), [48, 48]),
        (tiny_models.sd15, (64, 96), [40, 60]),
        (tiny_models.sd15, (48, 48), None),
        (tiny_models.sd15, (32, 32), None),
        (tiny_models.sd2, (96, 96), [72, 72]),  # with v-prediction: SD2 for 768 pixels
        (tiny_models.sdxl, (112, 144), [84, 108]),
        (tiny_models.sdxl, (104, 104), [94, 94]),
    ],
)
def test_auto_begins_at_three_quarters_at_least_of_the_side_the_family_was_trained_at(build, size, low_size):
    model = build()
    _, ran = sample(inputs_for(model, steps=5, latent_image=tiny_models.latent(model, *size)), "auto")
    assert pack_nodes.report(ran)["low_size"] == low_size


def test_auto_leaves_out_what_cannot_act_on_the_model(caplog):
    caplog.set_level("INFO", logger="postdiff")
    _, ran = sample(tiny_models.sampler_inputs(tiny_models.ltxav(), steps=4, scheduler="simple"), "auto")
    plan = pack_nodes.report(ran)["plan"]
    assert [step["cfg"] for step in plan] == ["on", "on", "on", "off"]
    assert [step["stage"] for step in plan] == ["full"] * 4
    assert any("cannot act on it: Mixed Resolution" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("preset", "build", "techniques"),
    [
        ("sd15", tiny_models.sd2, SD15),
        ("lcm", tiny_models.sd15, LCM),
        ("pixart_alpha", tiny_models.pixart_sigma, PIXART),
    ],
)
def test_a_preset_asked_for_holds_whatever_the_model(preset, build, techniques):
    inputs = inputs_for(build())
    latent, _ = sample(inputs, preset)
    assert torch.equal(latent["samples"], pack_nodes.sample(techniques, inputs=inputs))


def test_a_patch_upstream_takes_the_place_of_the_presets():
    inputs = inputs_for(tiny_models.sd15())
    patched = pack_nodes.with_deep_cache(inputs["model"], Techniques(interval=4, depth=5))
    latent, ran = sample(inputs | {"model": patched}, "sd15")
    overridden = Techniques(
        low_res_scale=0.5, low_res_until=0.5, interval=4, depth=5, cross_attn_start=0.75, cutoff_start=0.75
    )
    assert torch.equal(latent["samples"], pack_nodes.sample(overridden, inputs=inputs))
    report = pack_nodes.report(ran)
    assert [step["deep"] for step in report["plan"]] == ["refresh", "reuse", "reuse", "reuse"] * 2
    assert report["notes"] == ["The model's own settings override the preset for: Deep Cache."]


@pytest.mark.parametrize("preset", ["off", "lcm", "sd15"])
def test_on_the_model_that_ran_a_second_preset_takes_the_place_of_the_first(preset):
    inputs = inputs_for(tiny_models.sd15())
    _, ran = sample(inputs, "sd15")
    latent, again = sample(inputs | {"model": ran}, preset)
    fresh, _ = sample(inputs, preset)
    assert torch.equal(latent["samples"], fresh["samples"])
    assert pack_nodes.report(again)["notes"] == []


def test_patches_before_a_first_preset_hold_for_the_second_too():
    inputs = inputs_for(tiny_models.sd15())
    patched = pack_nodes.patched(inputs["model"], Techniques(interval=4, depth=5))
    _, ran = sample(inputs | {"model": patched}, "sd15")
    latent, again = sample(inputs | {"model": ran}, "off")
    assert torch.equal(latent["samples"], sample(inputs | {"model": patched}, "off")[0]["samples"])
    assert {step["deep"] for step in pack_nodes.report(again)["plan"]} == {"refresh", "reuse"}


def test_off_leaves_upstream_patches_alone():
    inputs = inputs_for(tiny_models.sd15())
    techniques = Techniques(interval=2, depth=3)
    latent, _ = sample(inputs | {"model": pack_nodes.patched(inputs["model"], techniques)}, "off")
    assert torch.equal(latent["samples"], pack_nodes.sample(techniques, inputs=inputs))


@pytest.mark.parametrize(
    ("size", "note"),
    [
        (96, None),
        (64, "auto: low_res_scale is 0.75, as 0.5 would begin below three quarters of the side that"),
        (32, "auto: no step runs at low resolution, as it would begin below three quarters of the side that"),
    ],
)
def test_what_auto_changes_for_the_size_is_said_in_the_report(size, note):
    model = tiny_models.sd15()
    _, ran = sample(inputs_for(model, steps=5, latent_image=tiny_models.latent(model, size, size)), "auto")
    said = pack_nodes.report(ran)["notes"]
    assert said == [] if note is None else [each.startswith(note) for each in said] == [True]


def test_it_says_what_it_chose(caplog):
    caplog.set_level("INFO", logger="postdiff")
    sample(inputs_for(tiny_models.lcm(), **LCM_SAMPLING), "auto")
    assert any("sd15" in said and "distilled" in said for said in map(logging.LogRecord.getMessage, caplog.records))


def test_recognising_a_model_makes_the_host_warn_of_nothing(caplog):
    sample(inputs_for(tiny_models.small_unet(), steps=4), "auto")
    hosts = [record for record in caplog.records if record.name != "postdiff"]
    assert [record.getMessage() for record in hosts if record.levelname == "WARNING"] == []


def test_batch_index_chooses_the_noise():
    model = tiny_models.sd15()
    whole, _ = sample(inputs_for(model, latent_image=tiny_models.latent(model, batch=3)), "sd15")
    alone, _ = sample(inputs_for(model, latent_image=tiny_models.latent(model) | {"batch_index": [2]}), "sd15")
    expected = whole["samples"][2:]
    assert torch.allclose(alone["samples"], expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_the_model_that_ran_draws_another_latent_with_that_ones_own_noise():
    model, sampling = tiny_models.small_unet(), {"steps": 4}
    picture = tiny_models.latent(model) | {"batch_index": [2]}
    _, ran = sample(tiny_models.sampler_inputs(model, latent_image=picture, **sampling), "sd15")
    assert pack_nodes.report(ran)["notes"] == []
    batch = tiny_models.latent(model, batch=2)
    again = tiny_models.stock_sample(ran, latent_image=batch, **sampling)
    assert pack_nodes.report(ran)["notes"] == []
    alone, _ = sample(tiny_models.sampler_inputs(model, latent_image=batch, **sampling), "sd15")
    assert torch.equal(again, alone["samples"])


def test_the_model_given_carries_nothing_afterwards():
    inputs = inputs_for(tiny_models.sd15())
    stock = tiny_models.stock_sample(**inputs)
    _, ran = sample(inputs, "auto")
    assert ran is not inputs["model"] and ran.model is inputs["model"].model
    assert torch.equal(tiny_models.stock_sample(**inputs), stock)


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.get_system_user_directory", lambda name: str(tmp_path / name))


def test_a_saved_preset_is_offered_last_and_runs_its_settings(user_folder):
    saved_presets.save("mine", Settings(cross_attn_cache=CrossAttnCache(0.3, "average")), {})
    offered = next(each for each in PostDiffKSampler.define_schema().inputs if each.id == "preset").options
    assert offered[-2:] == ["off", "mine"]
    assert PostDiffKSampler.validate_inputs(preset="mine") is True
    inputs = inputs_for(tiny_models.small_unet())
    latent, _ = sample(inputs, "mine")
    expected = pack_nodes.sample(Techniques(cross_attn_start=0.3, mode="average"), inputs=inputs)
    assert torch.equal(latent["samples"], expected)


def test_a_calibrated_preset_says_where_the_run_has_another_number_of_steps(user_folder):
    saved_presets.save("mine", Settings(cfg_cutoff=CFGCutoff(0.5)), {"chosen": {"steps": 4}})
    for steps, notes in (
        (4, []),
        (6, ["The preset mine was calibrated with 4 steps; with 6, speed and quality will differ."]),
    ):
        _, ran = sample(inputs_for(tiny_models.small_unet(), steps=steps), "mine")
        assert pack_nodes.report(ran)["notes"] == notes


def test_what_is_noted_of_a_choice_is_not_noted_of_the_next_ones(user_folder):
    """As where a second sampler refines what the first gave."""
    saved_presets.save("mine", Settings(cfg_cutoff=CFGCutoff(0.5)), {"chosen": {"steps": 4}})
    _, first = sample(inputs_for(tiny_models.small_unet(), steps=6), "mine")
    _, second = sample(inputs_for(first, steps=4), "mine")
    assert pack_nodes.report(first)["notes"] and pack_nodes.report(second)["notes"] == []


def test_what_auto_decides_is_logged_as_no_warning(caplog):
    sample(inputs_for(tiny_models.auraflow()), "auto")
    assert not any(record.levelname == "WARNING" and "auto" in record.message for record in caplog.records)


def test_auto_leaves_out_a_deep_cache_that_is_deeper_than_the_model(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "sd15", Settings(deep_cache=DeepCache(2, 4)))
    _, ran = sample(inputs_for(tiny_models.small_unet()), "auto")
    report = pack_nodes.report(ran)
    assert {step["deep"] for step in report["plan"]} == {"off"} and "left out" in report["notes"][0]


def test_a_preset_that_is_gone_is_named_with_the_remedy_before_and_during_the_run(user_folder):
    refusal = PostDiffKSampler.validate_inputs(preset="gone")
    assert isinstance(refusal, str) and "'gone'" in refusal and "PostDiff Calibrate" in refusal
    with pytest.raises(ValueError, match="'gone'"):
        sample(inputs_for(tiny_models.small_unet()), "gone")


def test_a_saved_preset_that_has_changed_is_run_again(user_folder):
    def fingerprint(preset):
        return PostDiffKSampler.fingerprint_inputs(preset=preset, seed=1)

    saved_presets.save("mine", Settings(cfg_cutoff=CFGCutoff(0.5)), {})
    before = fingerprint("mine")
    assert fingerprint("mine") == before != fingerprint("gone")
    saved_presets.save("mine", Settings(cfg_cutoff=CFGCutoff(0.6)), {})
    assert fingerprint("mine") != before
    assert fingerprint("auto") == fingerprint(None) == fingerprint("sd15")


@pytest.mark.parametrize("preset", [None, "auto", "sd15", "off"])
def test_built_in_presets_and_linked_ones_pass_the_check(user_folder, preset):
    assert PostDiffKSampler.validate_inputs(preset=preset) is True
