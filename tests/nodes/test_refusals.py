"""Say what you cannot do: refusals name the model, the reason and the remedy; what runs as stock is reported."""

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import DualCFGGuider
from comfy_extras.nodes_perpneg import PerpNegGuider

import pack_nodes
import stock_mixed_resolution as by_hand
import tiny_models
from postdiff.nodes.cfg_cutoff import CFGCutoff
from postdiff.nodes.cross_attn_cache_patch import CrossAttnCachePatch
from postdiff.nodes.deep_cache_patch import DeepCachePatch
from postdiff.nodes.mixed_resolution_patch import MixedResolutionPatch
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler
from postdiff.postdiff_core import patch
from postdiff.postdiff_core.schedule import CrossAttnCache, DeepCache, MixedResolution
from reference import Techniques


def deep_cache(model, **given):
    return DeepCachePatch.execute(
        model=model, **({"interval": 2, "depth": 2, "start_percent": 0.0, "end_percent": 1.0} | given)
    )


MIXED = r"Use instead: Mixed Resolution \(patch\)"


@pytest.mark.parametrize(
    ("build", "name", "remedy"),
    [
        (
            tiny_models.pixart_alpha,
            "PixArt",
            rf"{MIXED}, Cross-Attention Cache, CFG Cut-off\.",
        ),
        (
            tiny_models.pixart_sigma,
            "PixArt",
            rf"{MIXED}, Cross-Attention Cache, CFG Cut-off\.",
        ),
        (tiny_models.auraflow, "AuraFlow", rf"{MIXED}, CFG Cut-off\."),
    ],
)
def test_a_deep_cache_on_a_transformer_is_refused_with_what_can_act_on_it(build, name, remedy):
    with pytest.raises(ValueError, match=name) as refusal:
        deep_cache(build())
    refusal.match(remedy)


def test_a_cross_attention_cache_on_a_model_without_cross_attention_is_refused():
    with pytest.raises(ValueError, match="AuraFlow") as refusal:
        CrossAttnCachePatch.execute(model=tiny_models.auraflow(), start_percent=0.5, mode="cond")
    refusal.match(rf"{MIXED}, CFG Cut-off\.")


@pytest.mark.parametrize("preset", ["sd15", "sdxl"])
def test_a_preset_with_a_deep_cache_is_refused_on_a_transformer(preset):
    inputs = tiny_models.sampler_inputs(tiny_models.pixart_alpha())
    with pytest.raises(ValueError, match=f"The preset '{preset}' does not suit this model; auto does.*PixArt"):
        PostDiffKSampler.execute(**inputs, preset=preset)


@pytest.mark.parametrize(("build", "most"), [(tiny_models.sd15, 11), (tiny_models.sdxl, 8)])
def test_a_depth_beyond_the_model_is_refused_with_the_largest_named(build, most):
    model = build()
    deep_cache(model, depth=most)
    if most < 11:
        with pytest.raises(ValueError, match=rf"\b{most}\b") as refusal:
            deep_cache(model, depth=most + 1)
        refusal.match("depth")
    with pytest.raises(ValueError, match="depth"):
        deep_cache(model, depth=12)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.9, 0.1), (0.0, 0.0), (1.0, 1.0)])
def test_an_empty_deep_cache_window_is_refused(start, end):
    with pytest.raises(ValueError, match="empty"):
        deep_cache(tiny_models.sd15(), start_percent=start, end_percent=end)


def test_values_out_of_range_are_refused():
    model = tiny_models.sd15()
    with pytest.raises(ValueError, match="interval"):
        deep_cache(model, interval=0)
    with pytest.raises(ValueError, match="mode"):
        CrossAttnCachePatch.execute(model=model, start_percent=0.5, mode="mean")
    with pytest.raises(ValueError, match="start_percent"):
        CFGCutoff.execute(model=model, start_percent=1.2)
    with pytest.raises(ValueError, match="low_res_scale"):
        MixedResolutionPatch.execute(model=model, low_res_scale=0.1, low_res_until=0.5, upscale_method="bilinear")


def all_notes(model):
    return " ".join(pack_nodes.report(model)["notes"])


@pytest.mark.parametrize(("sampler_name", "steps"), [("euler", 1), ("euler", 2), ("dpm_adaptive", 1), ("dpm_fast", 2)])
def test_a_run_too_short_is_stock_and_says_so(sampler_name, steps):
    """dpm_adaptive does not evaluate the model at all in a run of one step."""
    everything = Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, cross_attn_start=0.5, cutoff_start=0.5)
    inputs = tiny_models.sampler_inputs(tiny_models.sd15(), sampler_name=sampler_name, steps=steps)
    patched = pack_nodes.patched(inputs["model"], everything)
    assert torch.equal(tiny_models.stock_sample(**(inputs | {"model": patched})), tiny_models.stock_sample(**inputs))
    assert "3" in all_notes(patched)


def dual_cfg(style, cfg_cond2_negative=3.0):
    def guider_for(model, one, two, three):
        return DualCFGGuider.execute(model, one, two, three, 4.0, cfg_cond2_negative, style).args[0]

    return guider_for


def perp_neg(model, one, two, three):
    return PerpNegGuider.execute(model, one, two, three, 5.0, 1.0).args[0]


GUIDERS = {
    "DualCFG": dual_cfg("regular"),
    "DualCFG without the negative prompt": dual_cfg("regular", cfg_cond2_negative=1.0),
    "DualCFG nested": dual_cfg("nested"),
    "PerpNeg": perp_neg,
}


def sample_with(guider_for, model):
    inputs = tiny_models.sampler_inputs(model)
    prompts = [tiny_models.conditioning(model, seed=seed) for seed in (1, 2, 3)]
    picture = inputs["latent_image"]["samples"]
    return guider_for(model, *prompts).sample(
        comfy.sample.prepare_noise(picture, 7),
        picture,
        comfy.samplers.sampler_object("euler"),
        by_hand.sigmas_of(inputs),
        disable_pbar=True,
        seed=7,
    )


@pytest.mark.parametrize("name", GUIDERS)
def test_a_guider_of_more_than_two_prompts_is_not_cut_off_and_says_so(name):
    model = tiny_models.sd15()
    patched = pack_nodes.with_cfg_cutoff(model, Techniques(cutoff_start=0.5))
    assert torch.equal(sample_with(GUIDERS[name], patched), sample_with(GUIDERS[name], model))
    assert name.split()[0] in all_notes(patched)
    report = pack_nodes.report(patched)
    assert report["totals"]["work_saved"] == 0
    assert {step["cfg"] for step in report["plan"]} == {"on"}


@pytest.mark.parametrize("name", GUIDERS)
def test_a_guider_of_more_than_two_prompts_runs_under_the_caches(name):
    model = tiny_models.sd15()
    techniques = Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, cross_attn_start=0.5, mode="average")
    latent = sample_with(GUIDERS[name], pack_nodes.patched(model, techniques))
    assert torch.isfinite(latent).all()
    assert not torch.equal(latent, sample_with(GUIDERS[name], model))


def test_a_nested_latent_runs_at_full_size_and_says_so():
    """The report's size is the video's, not that of the rows in which the host packs a video and its sound."""
    model = tiny_models.ltxav()
    model.model.diffusion_model.patch_size = 1  # or no smaller size is known for the video either
    patched = pack_nodes.with_mixed_resolution(model, Techniques(low_res_scale=0.5, low_res_until=0.5))
    parts = tiny_models.stock_sample(patched).unbind()
    assert len(parts) == 2
    assert all(map(torch.equal, parts, tiny_models.stock_sample(model).unbind()))
    assert "All steps run at full size: the latent is nested." in pack_nodes.report(patched)["notes"]
    assert pack_nodes.report(patched)["size"] == [8, 8]


def test_nothing_is_noted_where_nothing_had_to_be_changed():
    everything = Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, cross_attn_start=0.5, cutoff_start=0.5)
    patched = pack_nodes.patched(tiny_models.sd15(), everything)
    tiny_models.stock_sample(patched)
    assert pack_nodes.report(patched)["notes"] == []


def test_a_note_is_logged_once(caplog):
    patched = pack_nodes.with_cfg_cutoff(tiny_models.sd15(), Techniques(cutoff_start=0.5))
    sample_with(GUIDERS["DualCFG"], patched)
    assert sum("DualCFG" in record.getMessage() for record in caplog.records) == 1


def test_the_same_patch_twice_holds_once_and_the_later_one():
    inputs = tiny_models.sampler_inputs(tiny_models.sd15())
    first, later = Techniques(cutoff_start=0.2), Techniques(cutoff_start=0.7)
    patched = pack_nodes.with_cfg_cutoff(pack_nodes.with_cfg_cutoff(inputs["model"], first), later)
    latent = tiny_models.stock_sample(**(inputs | {"model": patched}))
    assert torch.equal(latent, pack_nodes.sample(later, inputs=inputs))
    assert "twice" in all_notes(patched)


class Engine:
    """A compiled network's front that is no torch module, as that of ComfyUI_TensorRT."""

    dtype = torch.float32

    def __call__(self, x, *_, **__):
        return 0.1 * x


@pytest.fixture(params=["sd15", "sdxl"])
def engine(request):
    model = tiny_models.MODELS[request.param]()
    del model.model.diffusion_model
    model.model.diffusion_model = Engine()
    model.model.memory_required = lambda *_, **__: 0
    return model


@pytest.mark.parametrize("technique", [MixedResolution(), DeepCache(), CrossAttnCache()])
def test_what_cannot_act_on_an_engine_says_so(engine, technique):
    with pytest.raises(ValueError, match=r"cannot act on .* Use instead: CFG Cut-off\."):
        patch.add(engine, technique)


def test_auto_cuts_guidance_off_on_an_engine(engine):
    inputs = tiny_models.sampler_inputs(engine)
    _, ran = PostDiffKSampler.execute(**inputs, preset="auto").args
    report = pack_nodes.report(ran)
    assert {step["cfg"] for step in report["plan"]} == {"on", "off"}
    assert {(step["stage"], step["deep"], step["xattn"]) for step in report["plan"]} == {("full", "off", "off")}
