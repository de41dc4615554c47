"""The recipe: resuming a stage, and what it exports."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import Conv2d, Linear

from postdiff.embedded_model.architecture import Autoencoder
from postdiff.embedded_model.loader import load_embedded_model
from postdiff.embedded_model.training.captions import held_out, read_held_out, vocabulary
from postdiff.embedded_model.training.config import Recipe, Training, concepts
from postdiff.embedded_model.training.diffusion import FlowMatching, TextToImage, size_shares
from postdiff.embedded_model.training.export import export
from postdiff.embedded_model.training.judge import Judge
from postdiff.embedded_model.training.loop import Optimizers, averaged_weights, learning_rate_factor, train
from postdiff.embedded_model.training.pictures import appearances, patch_file

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


@pytest.fixture(scope="module")
def text_to_image():
    torch.manual_seed(0)
    network = TextToImage(vocabulary())
    for parameter in network.parameters():  # nothing stays zero, or half the network would not be compared
        parameter.data = torch.randn_like(parameter) * 0.05
    return network


def test_the_loss_reaches_every_trained_weight(text_to_image):
    velocity = text_to_image(torch.randn(2, 8, 16, 16), torch.rand(2), ["noto red apple", "unheard fluent fox"])
    velocity.square().mean().backward()
    trained = [name for name, p in text_to_image.named_parameters() if p.requires_grad]
    without = [name for name in trained if text_to_image.get_parameter(name).grad is None]
    assert any("token_embedding" in name for name in trained)
    assert without == []


def save_average(network: torch.nn.Module, folder):
    folder.mkdir()
    average = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"average": average}, folder / "checkpoint.pt")


def write_blank_patches(folder, rng):
    folder.mkdir()
    for side in Recipe().pictures.sides:
        cells = side // 8
        np.save(folder / f"blanks-{side}.npy", rng.standard_normal((9, 8, cells, cells)).astype(np.float16))
        for size in (Recipe().pictures.small, Recipe().pictures.large):
            shape = (len(appearances()), 9, 8, cells * size // 8 + 4, cells * size // 8 + 4)
            np.lib.format.open_memmap(patch_file(folder, side, size), "w+", np.float16, shape)  # a sparse file of zeros


class Recorder(torch.nn.Module):
    """Stands for a denoiser; keeps what each step showed it."""

    def __init__(self):
        super().__init__()
        self.shown: list[tuple[int, torch.Tensor, list[str]]] = []

    def forward(self, latents, t, captions):
        self.shown.append((latents.shape[-1], t, captions))
        return torch.zeros_like(latents)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "patches"
    write_blank_patches(folder, np.random.default_rng(0))
    return folder


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


def test_the_loader_samples_exactly_what_the_recipe_trained(text_to_image, patches, tmp_path):
    rows, rng = 2 * len(concepts()), np.random.default_rng(0)
    (tmp_path / "icons").mkdir()
    np.save(tmp_path / "icons" / "concepts.npy", rng.integers(0, 256, (rows // 2, 2, 16, 16, 4), np.uint8))
    save_average(Autoencoder(), tmp_path / "autoencoder")
    save_average(text_to_image, tmp_path / "diffusion")
    weights = tmp_path / "shipped" / "weights.safetensors"
    export(Recipe(), tmp_path / "icons", tmp_path / "autoencoder", patches, tmp_path / "diffusion", weights)

    model, clip, _ = load_embedded_model(weights)
    text = clip.encode_from_tokens(clip.tokenize("noto red apple"))
    noisy, t = torch.randn(1, 8, 16, 16), torch.tensor([0.7])
    with torch.no_grad():
        velocity = text_to_image(noisy, t, ["noto red apple"])
        denoised = model.model.apply_model(noisy, t, c_crossattn=text)
    assert velocity.std() > 0.01
    assert ((noisy - denoised) / t - velocity).abs().max() < 0.02 * velocity.std()  # fp16 weights
    assert weights.stat().st_size <= 16_000_000
    judge = Judge.shipped(weights.parent)
    assert len(judge.pairs) == rows
    assert judge.categories["red apple"] == "food"
    assert sum(map(len, read_held_out(weights.parent).values())) == len(held_out(Recipe()))
