"""Off means off: at a neutral setting the latent is the stock KSampler's to the bit."""

import pytest
import torch

import pack_nodes
import tiny_models
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler
from reference import Techniques

MODELS = {
    "sd15": tiny_models.sd15,
    "sdxl": tiny_models.sdxl,
    "pixart_alpha": tiny_models.pixart_alpha,
    "lcm": tiny_models.lcm,
}
UNETS = {name: MODELS[name] for name in ("sd15", "sdxl")}
NEUTRAL = Techniques()
SAMPLERS = ["euler", "dpmpp_2m_sde", "euler_ancestral_cfg_pp"]


def neutral_latents(inputs, *, deep_cache):
    """By name, the latent under each neutral patch, under each neutral sampler, and under all of them."""
    model = inputs["model"]
    patches = {
        "cross-attention start 1": lambda model: pack_nodes.with_cross_attn_cache(model, NEUTRAL),
        "cut-off start 1": lambda model: pack_nodes.with_cfg_cutoff(model, NEUTRAL),
        "until 0": lambda model: pack_nodes.with_mixed_resolution(
            model, Techniques(low_res_scale=0.5, low_res_until=0.0)
        ),
        "scale 1": lambda model: pack_nodes.with_mixed_resolution(
            model, Techniques(low_res_scale=1.0, low_res_until=0.5)
        ),
    }
    if deep_cache:
        patches["interval 1"] = lambda model: pack_nodes.with_deep_cache(model, Techniques(interval=1, depth=2))
    everything = model
    for name, patch in patches.items():
        yield name, tiny_models.stock_sample(**(inputs | {"model": patch(model)}))
        everything = patch(everything)
    others = {name: value for name, value in inputs.items() if name != "model"}
    for until, scale in ((0.0, 0.5), (0.5, 1.0)):
        techniques = Techniques(low_res_until=until, low_res_scale=scale)
        latent, _ = pack_nodes.mixed_resolution_sampler(everything, techniques, **others)
        yield f"the sampler at until {until}, scale {scale}", latent["samples"]
    yield "preset off", PostDiffKSampler.execute(model=everything, preset="off", **others).args[0]["samples"]


@pytest.mark.parametrize("sampler_name", SAMPLERS)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_neutral_settings_leave_the_latent_bit_identical(build, sampler_name):
    model = build()
    inputs = tiny_models.sampler_inputs(
        model,
        sampler_name=sampler_name,
        steps=3,
        latent_image=tiny_models.latent(model, seed=3),
        negative=tiny_models.conditioning(model, seed=2, tokens=5),
        denoise=0.8,
    )
    stock = tiny_models.stock_sample(**inputs)
    for name, latent in neutral_latents(inputs, deep_cache=not tiny_models.is_transformer(model)):
        assert torch.equal(latent, stock), name


def test_the_latent_keeps_what_else_it_carried():
    model = tiny_models.sd15()
    inputs = tiny_models.sampler_inputs(
        model, latent_image=tiny_models.latent(model) | {"batch_index": [1], "name": "a"}
    )
    techniques = Techniques(low_res_scale=0.5, low_res_until=0.5)
    latent, _ = pack_nodes.mixed_resolution_sampler(inputs.pop("model"), techniques, **inputs)
    assert latent["batch_index"] == [1] and latent["name"] == "a"


@pytest.mark.parametrize("build", UNETS.values(), ids=UNETS)
def test_a_patched_model_leaves_the_one_it_was_made_from_stock(build):
    model = build()
    stock = tiny_models.stock_sample(model)
    patched = pack_nodes.patched(
        model, Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, cross_attn_start=0.5, cutoff_start=0.5)
    )
    assert not torch.equal(tiny_models.stock_sample(patched), stock)
    assert torch.equal(tiny_models.stock_sample(model), stock)
