"""What a patched MODEL makes of a run: its plan, what it notes of that, and which report it keeps."""

from collections import defaultdict

import comfy.samplers
import pytest
import torch
from comfy.hooks import HookKeyframeGroup
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import SamplerCustom

import companions
import tiny_models
from postdiff.postdiff_core import patch, schedule


def test_a_technique_whose_part_of_the_schedule_is_over_says_so():
    """In img2img: the run begins where seven tenths of the schedule have passed."""
    settings = schedule.Settings(
        schedule.MixedResolution(0.5, 0.5),
        schedule.DeepCache(2, 2, 0.0, 0.5),
        schedule.CrossAttnCache(0.8),
        schedule.CFGCutoff(1.0),
    )
    model = patch.fill(tiny_models.small_unet(), settings)
    tiny_models.stock_sample(model, steps=6, scheduler="simple", denoise=0.3)
    said = patch.carried_by(model).last_report["notes"]
    assert [note.partition(" does nothing here")[0] for note in said] == ["Mixed Resolution", "Deep Cache"]


@pytest.mark.parametrize(("denoise", "cfg", "is_said"), [(1.0, 5.0, False), (0.3, 5.0, True), (0.3, 1.0, False)])
def test_a_run_that_guidance_leaves_for_most_of_it_says_so(denoise, cfg, is_said):
    """In img2img with little denoising: three quarters of the schedule have passed when it begins."""
    model = patch.add(tiny_models.small_unet(), schedule.CFGCutoff(0.75))
    tiny_models.stock_sample(model, steps=8, denoise=denoise, cfg=cfg)
    said = patch.carried_by(model).last_report["notes"]
    assert sum(" steps run without guidance: it stops at 0.75" in note for note in said) == is_said


def test_a_run_without_steps_is_stock_and_has_no_report():
    """As the rest of SplitSigmas, split at the last step."""
    model = patch.add(tiny_models.small_unet(), schedule.CFGCutoff(0.75))
    given = tiny_models.sampler_inputs(model)
    parts = {name: given[name] for name in ("model", "cfg", "positive", "negative", "latent_image")}
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([0.0])
    sampled = SamplerCustom.execute(**parts, add_noise=False, noise_seed=7, sampler=sampler, sigmas=sigmas).args[0]
    assert torch.equal(sampled["samples"], given["latent_image"]["samples"])
    assert patch.carried_by(model).last_report is None


def test_a_low_resolution_size_is_noted_only_if_steps_run_at_it():
    """In img2img with little denoising there are none; PixArt takes no mean side under 33."""
    model = patch.add(tiny_models.pixart_alpha(), schedule.MixedResolution(0.5, 0.5))
    notes = []
    for denoise in (1.0, 0.3):
        tiny_models.stock_sample(model, denoise=denoise, latent_image=tiny_models.latent(model, 40, 40))
        notes.append(" ".join(patch.carried_by(model).last_report["notes"]))
    assert "stage runs at 34x34" in notes[0] and "does nothing here" not in notes[0]
    assert "stage runs at" not in notes[1] and "does nothing here" in notes[1]


@pytest.mark.parametrize("sampler_name", ["euler", "heun"])
def test_lora_hooks_with_keyframes_are_as_strong_at_each_noise_level_as_in_a_stock_run(sampler_name, monkeypatch):
    """heun's last evaluation before the switch has the noise level of the first after it."""
    prepare, strengths = HookKeyframeGroup.prepare_current_keyframe, defaultdict(set)

    def look(group, curr_t, transformer_options):
        changed = prepare(group, curr_t, transformer_options)
        strengths[float(curr_t)].add(float(group.strength))
        return changed

    def strengths_in(model):
        strengths.clear()
        inputs = tiny_models.sampler_inputs(model, sampler_name=sampler_name, scheduler="simple", steps=8)
        tiny_models.stock_sample(**companions.lora_hooks_with_keyframes(inputs))
        return dict(strengths)

    monkeypatch.setattr(HookKeyframeGroup, "prepare_current_keyframe", look)
    model = tiny_models.small_unet()
    stock = strengths_in(model)
    assert strengths_in(patch.add(model, schedule.MixedResolution(0.5, 0.5))) == stock
    assert len(stock) == 8


def test_a_node_that_goes_on_without_a_factor_of_the_low_size_has_all_steps_at_full_size():
    """Self-attention guidance seeks one of the tokens in the middle of the U-Net, which here is a single one."""
    model = tiny_models.sd15()
    inputs = companions.sag(tiny_models.sampler_inputs(model, latent_image=tiny_models.latent(model, 12, 12), steps=4))
    patched = patch.add(inputs["model"], schedule.MixedResolution(0.5, 0.5))
    assert torch.equal(tiny_models.stock_sample(**inputs | {"model": patched}), tiny_models.stock_sample(**inputs))
    assert "TypeError" in " ".join(patch.carried_by(patched).last_report["notes"])


def test_a_run_that_fails_leaves_no_report_of_the_one_before():
    model = patch.add(tiny_models.small_unet(), schedule.CFGCutoff(0.5))
    tiny_models.stock_sample(model, steps=4)
    failing = model.clone()

    def fail(executor, *args):
        raise RuntimeError("as the test asked")

    failing.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", fail)
    with pytest.raises(RuntimeError, match="as the test asked"):
        tiny_models.stock_sample(failing, steps=4)
    assert patch.carried_by(model).last_report is None


def test_the_first_step_computes_cross_attention_whatever_is_asked():
    model = patch.add(tiny_models.small_unet(), schedule.CrossAttnCache(0.0))
    tiny_models.stock_sample(model, steps=4)
    report = patch.carried_by(model).last_report
    assert [step["xattn"] for step in report["plan"]] == ["compute", "reuse", "reuse", "reuse"]
    assert report["steps"][0]["macs"] > report["steps"][1]["macs"]
