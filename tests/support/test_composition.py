"""A cell fails where the pack does other than it should."""

import pytest

import composition
from composition import CROSS, CUT, DEEP, MIXED, ROWS
from postdiff.postdiff_core import cfg_cutoff, cross_attn_cache, deep_cache, noise


def without_cut_off(monkeypatch):
    monkeypatch.setattr(cfg_cutoff, "install", lambda run, *, by_name: None)


def with_a_feature_too_strong(monkeypatch):
    shallow = deep_cache._shallow_forward
    monkeypatch.setattr(
        deep_cache, "_shallow_forward", lambda unet, depth, feature: shallow(unet, depth, 1.001 * feature)
    )


def with_a_block_too_many(monkeypatch):
    shallow = deep_cache._shallow_forward

    def deeper(unet, depth, feature):
        return shallow(unet, depth, feature) if depth == 3 else type(unet)._forward.__get__(unet)

    monkeypatch.setattr(deep_cache, "_shallow_forward", deeper)


def with_the_rows_exchanged(monkeypatch):
    join = cross_attn_cache.join
    monkeypatch.setattr(cross_attn_cache, "join", lambda parts: join(parts).flip(0))


def with_the_noise_of_another_seed(monkeypatch):
    drawn = noise.draw_noise
    monkeypatch.setattr(noise, "draw_noise", lambda latent, seed, index: drawn(latent, seed + 1, index))


MISTAKES = [
    (CUT, without_cut_off, "the latent is the same"),
    (DEEP, with_a_feature_too_strong, "away from that of the run in full"),
    (DEEP, with_a_block_too_many, "work executed is not the work planned|the latent is the same"),
    (CROSS, with_the_rows_exchanged, "away from that of the run in full"),
    (MIXED, with_the_noise_of_another_seed, "away from that of the run in full|noted"),
]


@pytest.mark.parametrize(("column", "make", "complaint"), MISTAKES)
def test_a_cell_notices(column, make, complaint, monkeypatch):
    make(monkeypatch)
    with pytest.raises(AssertionError, match=complaint):
        composition.cell(ROWS["ConditioningAverage"], column)
