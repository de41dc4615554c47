"""The noise of both stages where the run was given another than its seed's."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from postdiff.postdiff_core.noise import draw_noise, from_given, from_seed, is_of_seed, lower_resolution, rearranged

LATENT = torch.zeros(2, 4, 12, 20)


def white(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=20)
@given(st.integers(9, 40), st.integers(9, 40), st.floats(0.25, 1.0))
def test_noise_at_a_lower_resolution_is_as_white_as_it_was(height, width, scale):
    low = max(4, round(height * scale)), max(4, round(width * scale))
    noise = lower_resolution(white(64, 8, height, width), low)
    assert noise.shape[-2:] == low and noise.dtype == torch.float32
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean(), (noise[..., 1:, :] * noise[..., :-1, :]).mean()
    assert all(abs(each.item()) < 0.05 for each in neighbours)


def test_at_a_lower_resolution_it_is_the_same_wherever_it_varies_slowly():
    wave = torch.cos(torch.pi * (torch.arange(32) + 0.5) / 32)[None, None, None].expand(1, 1, 32, 32)
    low = lower_resolution(wave, (16, 16))
    expected = torch.cos(torch.pi * (torch.arange(16) + 0.5) / 16)[None, None, None].expand(1, 1, 16, 16)
    assert torch.allclose(low, 2 * expected, atol=1e-5)  # the mean of 4 pixels, at the variance of one


def test_rearranged_noise_is_new_but_as_alike_as_it_was():
    noise = white(1, 4, 32, 32).repeat(2, 1, 1, 1)
    other = rearranged(noise, 8)
    assert torch.equal(other[0], other[1])
    assert torch.equal(noise.flatten(1).sort().values, other.flatten(1).sort().values)
    assert abs((noise * other).mean().item()) < 0.05


def test_where_there_is_no_noise_there_is_none_in_another_order():
    noise = white(2, 4, 32, 32)
    noise[..., 16:] = 0
    other = rearranged(noise, 8)
    assert not other[..., 16:].any() and not (other[..., :16] == 0).any()
    assert torch.equal(noise.flatten(1).sort().values, other.flatten(1).sort().values)


@pytest.mark.parametrize("batch_index", [None, [3, 5]])
def test_a_seeds_own_noise_is_drawn_anew_for_each_stage(batch_index):
    assert is_of_seed(draw_noise(LATENT, 7, batch_index), LATENT, 7, batch_index)
    low = torch.zeros(2, 4, 6, 10)
    assert torch.equal(from_seed(batch_index)(low, 7), draw_noise(low, 7, batch_index))


def test_two_seeds_mixed_differ_by_the_second_in_both_stages():
    """As variation seeds do."""

    def drawn(second):
        noise = (draw_noise(LATENT, 7, None) + draw_noise(LATENT, second, None)) / 2**0.5
        assert not is_of_seed(noise, LATENT, 7, None)
        return from_given(noise)(torch.zeros(2, 4, 6, 10), 7), from_given(noise)(LATENT, 8)

    for one, other in zip(drawn(1), drawn(2), strict=True):
        assert not torch.allclose(one, other, atol=0.1)
