"""All techniques at once: against the reference in plain torch, and under every sampler and scheduler of the host."""

from dataclasses import replace

import comfy.samplers
import pytest
import torch

import pack_nodes
import tiny_models
from compare import assert_like_reference, inputs_with_prompts
from reference import Techniques

PAPER = Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, depth=2, cross_attn_start=0.75, cutoff_start=0.75)
PAPER_ON_A_TRANSFORMER = replace(PAPER, interval=1)


@pytest.mark.parametrize(("batch", "negative_tokens"), [(1, 7), (2, 7), (2, 5)])
@pytest.mark.parametrize("build", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
def test_the_paper_settings_equal_the_reference(build, batch, negative_tokens):
    model = build()
    techniques = PAPER_ON_A_TRANSFORMER if tiny_models.is_transformer(model) else PAPER
    assert_like_reference(techniques, inputs_with_prompts(model, batch=batch, negative_tokens=negative_tokens, steps=8))


def test_the_paper_settings_for_sdxl_equal_the_reference():
    model = tiny_models.sdxl()
    assert_like_reference(
        Techniques(
            low_res_scale=0.75, low_res_until=0.2, interval=2, depth=3, cross_attn_start=0.75, cutoff_start=0.75
        ),
        inputs_with_prompts(model, steps=10, latent_image=tiny_models.latent(model, 16, 24)),
    )


def test_the_paper_settings_for_lcm_equal_the_reference():
    """One row throughout; the cross-attention of the low-resolution half serves the other half, resized."""
    assert_like_reference(
        Techniques(low_res_scale=0.5, low_res_until=0.5, cross_attn_start=0.5),
        inputs_with_prompts(tiny_models.lcm(), steps=8, sampler_name="lcm", scheduler="sgm_uniform", cfg=1.0),
    )


@pytest.mark.parametrize("mode", ["cond", "average", "uncond", "cfg"])
def test_reuse_that_starts_before_the_switch_equals_the_reference(mode):
    assert_like_reference(
        Techniques(
            low_res_scale=0.5,
            low_res_until=0.6,
            interval=3,
            depth=3,
            cross_attn_start=0.3,
            cutoff_start=0.4,
            mode=mode,
        ),
        inputs_with_prompts(tiny_models.sd15(), steps=10, negative_tokens=5),
    )


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_every_scheduler_equals_the_reference(scheduler):
    assert_like_reference(PAPER, inputs_with_prompts(tiny_models.sd15(), scheduler=scheduler))


@pytest.mark.parametrize("sampler_name", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_runs(sampler_name):
    model = tiny_models.sd15()
    seen = []
    model.model.diffusion_model.register_forward_pre_hook(lambda _network, given: seen.append(given[0].shape))
    inputs = inputs_with_prompts(model, sampler_name=sampler_name, scheduler="karras")
    latent = pack_nodes.sample(PAPER, inputs=inputs)
    assert torch.isfinite(latent).all()
    assert (seen[0][0], seen[0][-1]) == (2, 8), "the first evaluation is guided and of low resolution"
    assert (seen[-1][0], seen[-1][-1]) == (1, 16), "the last evaluation is unguided and of full size"
    assert torch.equal(latent, pack_nodes.sample(PAPER, inputs=inputs)), "the same seed gave another picture"
