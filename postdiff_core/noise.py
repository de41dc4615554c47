"""The noise that both stages of mixed resolution begin with."""

from __future__ import annotations

import math
from collections.abc import Callable

import comfy.sample
import torch

from .architecture import Size

NoiseSource = Callable[[torch.Tensor, int], torch.Tensor]  # from a stage's latent and seed


def draw_noise(latent: torch.Tensor, seed: int | None, batch_index: list[int] | None) -> torch.Tensor:
    """The noise that a stock KSampler draws for this latent and seed."""
    noise = comfy.sample.prepare_noise(latent.cpu(), seed, batch_index)
    assert isinstance(noise, torch.Tensor)  # nested latents run at full size
    return noise


def is_of_seed(noise: torch.Tensor, latent: torch.Tensor, seed: int, batch_index: list[int] | None) -> bool:
    """Whether a stock KSampler draws this noise; not that of two seeds mixed, or of pictures chosen out of a batch."""
    return torch.equal(noise.cpu(), draw_noise(latent, seed, batch_index))


def from_seed(batch_index: list[int] | None) -> NoiseSource:
    """Each stage's noise as a stock KSampler draws it."""
    return lambda latent, seed: draw_noise(latent, seed, batch_index)


def from_given(noise: torch.Tensor) -> NoiseSource:
    """Each stage's noise from that of the run: its low frequencies, or at its own size the same numbers rearranged."""

    def derived(latent: torch.Tensor, seed: int) -> torch.Tensor:
        size = latent.shape[-2], latent.shape[-1]
        return rearranged(noise, seed) if size == noise.shape[-2:] else lower_resolution(noise, size)

    return derived


def lower_resolution(noise: torch.Tensor, low: Size) -> torch.Tensor:
    """White noise (B, C, H, W) at a lower resolution: its low frequencies, which decide where things lie.

    The cosine transform is orthonormal, so that they are white noise of the same variance again.
    """
    down, across = (_lowest_frequencies(side, kept) for side, kept in zip(noise.shape[-2:], low, strict=True))
    return (down @ noise.cpu().double() @ across.T).to(noise.dtype)


def rearranged(noise: torch.Tensor, seed: int) -> torch.Tensor:
    """The same numbers of each picture (B, ...) in another order: as good as new noise, and as alike as they were.

    Where none of the pictures has noise, none has it afterwards.
    """
    numbers = noise.flatten(1)
    (places,) = (numbers != 0).any(dim=0).cpu().nonzero(as_tuple=True)
    order = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))]
    other = numbers.clone()
    other[:, places.to(noise.device)] = numbers[:, order.to(noise.device)]
    return other.view_as(noise)


def _lowest_frequencies(side: int, kept: int) -> torch.Tensor:
    """(kept, side): to the `kept` lowest frequencies of the cosine transform, and back at that length."""
    return _cosines(kept).T @ _cosines(side)[:kept]


def _cosines(side: int) -> torch.Tensor:
    """The orthonormal cosine transform (DCT-II) of this length, as a matrix."""
    frequency, place = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)
    cosines = torch.cos(math.pi * frequency * (place + 0.5) / side) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    return cosines
