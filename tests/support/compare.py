"""How far apart two latents are, and whether the pack gives the reference's."""

from __future__ import annotations

from typing import Any

import torch

import pack_nodes
import reference
import tiny_models

TOLERANCE = 1e-5


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two values at the same place, in units of the largest value of `one`."""
    assert one.shape == other.shape, (one.shape, other.shape)
    assert torch.isfinite(one).all() and torch.isfinite(other).all()
    return ((one - other).abs().max() / one.abs().max()).item()


def assert_like_reference(techniques: reference.Techniques, inputs: dict[str, Any]) -> None:
    """The pack's nodes give the reference's latent, and that latent is far from the one the stock sampler gives."""
    expected = reference.sample(inputs["model"], techniques, inputs=inputs)
    assert largest_difference(expected, pack_nodes.sample(techniques, inputs=inputs)) < TOLERANCE
    assert largest_difference(expected, tiny_models.stock_sample(**inputs)) > 10 * TOLERANCE


def inputs_with_prompts(model: Any, *, negative_tokens: int = 7, batch: int = 1, **given: Any) -> dict[str, Any]:
    """A KSampler's inputs with a positive prompt of 7 tokens and a negative one of another length.

    The host evaluates 7 and 7 tokens in one call, pads 14 to 7, and evaluates 5 in a call of its own; PixArt takes all
    unequal lengths in calls of their own.
    """
    negative = tiny_models.conditioning(model, seed=2, tokens=negative_tokens)
    return tiny_models.sampler_inputs(
        model, **({"negative": negative, "latent_image": tiny_models.latent(model, batch=batch)} | given)
    )
