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


def noise_source(
    noise: torch.Tensor, latent: torch.Tensor, seed: int | None, batch_index: list[int] | None
) -> NoiseSource:
    """What gives each stage of a run with this `noise` its own, from the stage's latent and seed.

    A stock KSampler's noise is drawn anew, as one draws it. Where the noise is another (two seeds mixed, pictures
    chosen out of a batch), stage 1 gets its low frequencies and stage 2 the same numbers in another order.
    """
    if torch.equal(noise.cpu(), draw_noise(latent, seed, batch_index)):
        return lambda stage_latent, stage_seed: draw_noise(stage_latent, stage_seed, batch_index)

    def derived(stage_latent: torch.Tensor, stage_seed: int) -> torch.Tensor:
        size = stage_latent.shape[-2], stage_latent.shape[-1]
        return rearranged(noise, stage_seed) if size == noise.shape[-2:] else lower_resolution(noise, size)

    return derived


def lower_resolution(noise: torch.Tensor, low: Size) -> torch.Tensor:
    """White noise (B, C, H, W) at a lower resolution: its low frequencies, which decide where things lie.

    The cosine transform is orthonormal, so that they are white noise of the same variance again.
    """
    down, across = (_lowest_frequencies(side, kept) for side, kept in zip(noise.shape[-2:], low, strict=True))
    return (down @ noise.cpu().double() @ across.T).to(noise.dtype)


def rearranged(noise: torch.Tensor, seed: int) -> torch.Tensor:
    """The same numbers of each picture (B, ...) in another order: as good as new noise, and as alike as they were."""
    picture = noise[0].numel()
    order = torch.randperm(picture, generator=torch.Generator().manual_seed(seed)).to(noise.device)
    return noise.flatten(1)[:, order].view_as(noise)


def _lowest_frequencies(side: int, kept: int) -> torch.Tensor:
    """(kept, side): to the `kept` lowest frequencies of the cosine transform, and back at that length."""
    return _cosines(kept).T @ _cosines(side)[:kept]


def _cosines(side: int) -> torch.Tensor:
    """The orthonormal cosine transform (DCT-II) of this length, as a matrix."""
    frequency, place = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)
    cosines = torch.cos(math.pi * frequency * (place + 0.5) / side) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    return cosines
