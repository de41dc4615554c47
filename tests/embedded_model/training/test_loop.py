"""A trained stage: its optimizers and learning rate, and that it resumes where it stopped."""

from dataclasses import replace

import pytest
import torch
from torch.nn import Conv2d, Linear

from postdiff.embedded_model.training.config import Training
from postdiff.embedded_model.training.loop import Optimizers, averaged_weights, learning_rate_factor, train

PLAN = Training(steps=12, learning_rate=1e-2, ema_decay=0.9, warmup_steps=3)


class Toy(torch.nn.Module):
    """Two layers, named as a denoiser's are: a convolution that Muon trains, and a last layer that AdamW does."""

    def __init__(self):
        super().__init__()
        self.unet = torch.nn.ModuleDict({"middle": Conv2d(2, 6, 2), "out": Linear(6, 4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unet["out"](self.unet["middle"](x).flatten(1))


def toy_problem():
    torch.manual_seed(0)
    network = Toy()

    def loss_at(step: int) -> torch.Tensor:
        x = torch.randn(8, 2, 2, 2, generator=torch.Generator().manual_seed(step))
        return (network(x) - x.flatten(1)[:, :4].flip(1)).square().mean()

    return network, loss_at


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, muon=PLAN.learning_rate)], ids=["AdamW", "Muon"])
def test_a_resumed_training_run_equals_the_uninterrupted_one(tmp_path, plan):
    assert train(*toy_problem(), plan, tmp_path / "whole")
    assert not train(*toy_problem(), plan, tmp_path / "parts", stop_at=5)
    assert train(*toy_problem(), plan, tmp_path / "parts")
    whole, parts = averaged_weights(tmp_path / "whole"), averaged_weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_muon_gives_every_direction_of_a_hidden_matrix_a_like_step():
    network, loss_at = toy_problem()
    before = network.unet["middle"].weight.detach().clone()
    optimizers = Optimizers(network, replace(PLAN, muon=PLAN.learning_rate))
    loss_at(0).backward()
    optimizers.step(0)
    step = (network.unet["middle"].weight.detach() - before).flatten(1)
    singular = torch.linalg.svdvals(step)
    assert singular[-1] > 0.2 * singular[0]
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, muon=PLAN.learning_rate)], ids=["AdamW", "Muon"])
def test_training_lowers_the_loss(tmp_path, plan):
    network, loss_at = toy_problem()
    before = loss_at(100).item()
    train(network, loss_at, replace(plan, steps=60, learning_rate=0.05), tmp_path)
    assert loss_at(100).item() < 0.3 * before


def test_an_interrupted_training_run_keeps_its_last_step(tmp_path):
    network, loss_at = toy_problem()

    def interrupted(step: int) -> torch.Tensor:
        if step == 7:
            raise KeyboardInterrupt
        return loss_at(step)

    with pytest.raises(KeyboardInterrupt):
        train(network, interrupted, PLAN, tmp_path / "parts")
    train(*toy_problem(), PLAN, tmp_path / "parts")
    train(*toy_problem(), PLAN, tmp_path / "whole")
    whole, parts = averaged_weights(tmp_path / "whole"), averaged_weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_learning_rate_warms_up_holds_and_falls_to_zero():
    plan = Training(steps=100, learning_rate=1.0, ema_decay=0.9, warmup_steps=10, decay_share=0.2)
    assert learning_rate_factor(0, plan) == pytest.approx(0.1)
    assert learning_rate_factor(50, plan) == 1
    assert learning_rate_factor(90, plan) == pytest.approx(0.5)
    assert learning_rate_factor(100, plan) == 0
    falling = replace(plan, hold_steps=20)
    assert learning_rate_factor(20, falling) == 1
    assert learning_rate_factor(80, falling) == pytest.approx(0.5)
    assert learning_rate_factor(90, falling) == pytest.approx(0.5 * (20 / 90) ** 0.5)


def test_a_stage_without_a_checkpoint_says_which_stage_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage 'diffusion' first"):
        averaged_weights(tmp_path / "diffusion")
