"""What the denoiser is shown, and that all of it learns."""

import numpy as np
import pytest
import torch

from postdiff.embedded_model.training.captions import held_out
from postdiff.embedded_model.training.config import Recipe
from postdiff.embedded_model.training.diffusion import FlowMatching, size_shares


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


def shown_by(loss: str, patches, steps: range):
    network = Recorder()
    problem = FlowMatching(network, Recipe(), patches, torch.device("cpu"), bf16=False)
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
