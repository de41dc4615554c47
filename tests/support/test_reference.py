"""The reference is only a reference if it is the host where nothing is left out."""

import pytest
import torch

import reference
import tiny_models
from compare import largest_difference


@pytest.mark.parametrize("build", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
def test_without_techniques_the_reference_is_the_stock_sampler(build):
    model = build()
    inputs = tiny_models.sampler_inputs(
        model,
        negative=tiny_models.conditioning(model, seed=2, tokens=5),
        latent_image=tiny_models.latent(model, batch=2),
    )
    assert_same_latent(inputs)


@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.sdxl])
def test_the_reference_handles_sides_that_do_not_halve_evenly(build):
    model = build()
    assert_same_latent(tiny_models.sampler_inputs(model, latent_image=tiny_models.latent(model, 24, 15)))


def test_the_reference_handles_pictures_that_are_not_square():
    model = tiny_models.pixart_alpha()
    assert_same_latent(tiny_models.sampler_inputs(model, latent_image=tiny_models.latent(model, 64, 72)))


def test_the_reference_handles_distilled_sampling():
    model = tiny_models.lcm()
    assert_same_latent(tiny_models.sampler_inputs(model, sampler_name="lcm", scheduler="sgm_uniform", cfg=1.0))


def test_resized_tokens_are_a_resized_picture():
    picture = torch.arange(12.0).reshape(1, 1, 3, 4)
    tokens = picture.flatten(2).transpose(1, 2)
    resized = reference.resized_tokens(tokens, (3, 4), (6, 8)).transpose(1, 2).reshape(1, 1, 6, 8)
    assert resized[0, 0, 0, 0] == 0 and resized[0, 0, -1, -1] == 11
    assert torch.allclose(resized[0, 0, 1:3, 1], torch.tensor([1.25, 3.25]))


def assert_same_latent(inputs):
    stock = tiny_models.stock_sample(**inputs)
    assert largest_difference(stock, reference.sample(inputs["model"], reference.Techniques(), inputs=inputs)) < 1e-5
