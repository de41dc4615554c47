"""How far apart two latents are."""

import torch


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two values at the same place, in units of the largest value of `one`."""
    assert one.shape == other.shape, (one.shape, other.shape)
    assert torch.isfinite(one).all() and torch.isfinite(other).all()
    return ((one - other).abs().max() / one.abs().max()).item()
