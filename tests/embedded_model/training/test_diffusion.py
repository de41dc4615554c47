"""What the denoiser is shown, and that all of it learns."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from postdiff.embedded_model.loader import TEXT_PREFIX, UNET_PREFIX
from postdiff.embedded_model.training.captions import held_out
from postdiff.embedded_model.training.config import STYLES, Recipe, concepts
from postdiff.embedded_model.training.diffusion import FlowMatching, load_exported, size_shares
from postdiff.embedded_model.training.export import with_prefix


def test_the_loss_reaches_every_trained_weight(text_to_image):
    velocity = text_to_image(torch.randn(2, 8, 16, 16), torch.rand(2), ["noto red apple", "unheard fluent fox"])
    velocity.square().mean().backward()
    trained = [name for name, p in text_to_image.named_parameters() if p.requires_grad]
    without = [name for name in trained if text_to_image.get_parameter(name).grad is None]
    assert any("token_embedding" in name for name in trained)
    assert without == []


class Recorder(torch.nn.Module):
    """Stands for a denoiser; keeps what each step showed it."""

    def __init__(self):
        super().__init__()
        self.shown: list[tuple[int, torch.Tensor, list[str]]] = []

    def forward(self, latents, t, captions):
        self.shown.append((latents.shape[-1], t, captions))
        return torch.zeros_like(latents)


def shown_by(loss: str, patches, steps: range, chances=None):
    network = Recorder()
    problem = FlowMatching(network, Recipe(), patches, torch.device("cpu"), False, chances)
    for step in steps:
        getattr(problem, loss)(step)
    return network.shown


def test_every_step_shows_one_size_at_all_times_and_captions_that_are_not_held_out(patches):
    recipe = Recipe()
    shown = shown_by("any_size", patches, range(recipe.sizes[1][0], recipe.sizes[1][0] + 60))
    never = {str(prompt) for prompt in held_out(recipe)}
    assert {8 * cells for cells, _, _ in shown} == set(recipe.pictures.sides)
    for cells, t, captions in shown:
        assert len(captions) == recipe.batch[8 * cells]
        assert t.min() < 0.25 and t.max() > 0.75
        assert not never & set(captions)


def test_the_resolution_schedule_shows_noisy_pictures_at_half_size_and_the_others_at_full(patches):
    shown = shown_by("scheduled_size", patches, range(12))
    half = torch.cat([t for cells, t, _ in shown if cells == 16])
    full = torch.cat([t for cells, t, _ in shown if cells == 32])
    assert half.mean() > 0.65 and half.min() > 0.4
    assert full.mean() < 0.35 and full.max() < 0.6


def test_the_search_for_weak_icons_decides_what_is_shown_next_and_full_size_is_noisier(patches):
    only = dict.fromkeys(STYLES, np.eye(len(concepts()))[[0, 1]].mean(axis=0))
    shown = shown_by("weak_icons", patches, range(24), only)
    names = {concept.name for concept in concepts()[:2]}
    full = [caption for cells, _, captions in shown if cells == 32 for caption in captions]
    assert sum(any(name in caption for name in names) for caption in full) > 0.8 * len(full)  # the others are empty
    time_at = {side: torch.cat([t for cells, t, _ in shown if cells == side]).mean() for side in (16, 32)}
    assert time_at[16] == pytest.approx(0.5, abs=0.02) and time_at[32] > 0.6


def test_exported_weights_are_read_back(text_to_image, tmp_path):
    parts = ((UNET_PREFIX, text_to_image.unet), (TEXT_PREFIX, text_to_image.text_encoder))
    exported = [with_prefix(prefix, module.state_dict()) for prefix, module in parts]
    save_file(exported[0] | exported[1], tmp_path / "weights.safetensors")
    read = dict(load_exported(tmp_path / "weights.safetensors").named_parameters())
    for name, parameter in text_to_image.named_parameters():
        assert torch.equal(read[name], parameter.half().float()), name


def test_pictures_grow_in_the_course_of_the_training():
    recipe = Recipe()
    starts = [start for start, _ in recipe.sizes]
    assert starts == sorted(starts)
    assert starts[0] == 0 and starts[-1] < recipe.diffusion.steps
    mean_sides = []
    for start, shares in recipe.sizes:
        assert size_shares(start, recipe) == size_shares(start + 1, recipe) == shares
        assert sum(shares) == pytest.approx(1)
        mean_sides.append(np.dot(shares, recipe.pictures.sides))
    assert mean_sides == sorted(mean_sides)
