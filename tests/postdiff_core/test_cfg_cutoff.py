"""Section 2.5, guidance cut-off: against the reference in plain torch, and row by row."""

import pytest
import torch

import pack_nodes
import tiny_models
from compare import assert_like_reference, inputs_with_prompts
from reference import Techniques


@pytest.mark.parametrize(("batch", "negative_tokens"), [(1, 7), (2, 5)])
@pytest.mark.parametrize("build", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
def test_the_cut_off_equals_the_reference(build, batch, negative_tokens):
    inputs = inputs_with_prompts(build(), batch=batch, negative_tokens=negative_tokens)
    assert_like_reference(Techniques(cutoff_start=0.5), inputs)


def test_from_the_first_step_on_the_latent_is_that_of_guidance_1():
    inputs = inputs_with_prompts(tiny_models.sd15())
    unguided = tiny_models.stock_sample(**(inputs | {"cfg": 1.0}))
    assert torch.equal(pack_nodes.sample(Techniques(cutoff_start=0.0), inputs=inputs), unguided)


def test_the_negative_prompt_is_not_evaluated_after_the_cut_off():
    """Under uniform timesteps, 0.75 of 8 steps are 6."""
    model = tiny_models.sd15()
    rows = []
    model.model.diffusion_model.register_forward_pre_hook(lambda _network, inputs: rows.append(len(inputs[0])))
    inputs = inputs_with_prompts(model, scheduler="sgm_uniform", steps=8)
    pack_nodes.sample(Techniques(cutoff_start=0.75), inputs=inputs)
    assert rows == [2] * 6 + [1] * 2
