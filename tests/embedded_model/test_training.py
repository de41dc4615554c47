"""The recipe: captions, views, resuming, judging."""

import numpy as np
import pytest
import torch
from PIL import Image

from postdiff.embedded_model.architecture import Autoencoder
from postdiff.embedded_model.loader import load_embedded_model
from postdiff.embedded_model.training.config import Captions, Pictures, Training, caption_name, concepts
from postdiff.embedded_model.training.diffusion import TextToImage
from postdiff.embedded_model.training.export import export
from postdiff.embedded_model.training.judge import Judge, crop_to_foreground, wilson_interval
from postdiff.embedded_model.training.loop import averaged_weights, learning_rate_factor, train
from postdiff.embedded_model.training.pictures import caption, place, random_view, vocabulary


def icon(colour=(200, 30, 30, 255), side=64):
    return Image.new("RGBA", (side, side), colour)


def test_concepts_have_distinct_names_and_icons():
    listed = concepts()
    assert len(listed) >= 80
    assert len({concept.name for concept in listed}) == len({concept.icon for concept in listed}) == len(listed)


def test_caption_names_are_what_a_person_would_type():
    assert caption_name("red-apple", "food") == "red apple"
    assert caption_name("cat-face", "animals") == "cat"
    assert caption_name("cold-face", "faces") == "cold face"
    assert caption_name("locked", "objects") == "lock"


def test_every_caption_word_is_in_the_vocabulary():
    words = vocabulary(concepts())
    assert words == sorted(set(words))
    assert {"noto", "fluent", "red", "apple"} <= set(words)


def test_captions_are_sometimes_empty_and_sometimes_hold_a_strange_word():
    rng = np.random.default_rng(0)
    drawn = {caption("noto", "red apple", Captions(), rng) for _ in range(500)}
    assert {"", "noto red apple", "red apple"} <= drawn
    assert any(text.split() == ["noto", "red", "apple", "unheard"] for text in drawn)


def test_an_icon_lies_where_it_is_placed():
    picture = place(icon(), side=64, size=32, x=32, y=0)
    assert (picture[:32, 32:] == (200, 30, 30)).all()
    assert (picture[32:] == 255).all()
    assert (picture[:, :32] == 255).all()


def test_views_differ_in_place_and_lie_whole_on_the_latent_grid():
    rng, settings = np.random.default_rng(0), Pictures()
    corners = set()
    for _ in range(60):
        foreground = (random_view(icon(), 256, settings, rng) != 255).any(axis=-1)
        rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
        assert len(rows) == len(columns) == round(256 * settings.scale)
        assert rows[0] % 8 == columns[0] % 8 == 0
        corners.add((rows[0], columns[0]))
    assert len(corners) > 20


def test_the_judge_ignores_position_and_size():
    star = np.full((64, 64, 4), 0, np.uint8)
    star[16:48, 28:36] = star[28:36, 16:48] = (20, 40, 220, 255)
    small = place(Image.fromarray(star), 128, 77, 5, 46).astype(np.float32) / 255
    large = place(Image.fromarray(star), 128, 122, 3, 3).astype(np.float32) / 255
    assert np.abs(crop_to_foreground(small) - crop_to_foreground(large)).mean() < 0.03


def test_the_judge_names_the_nearest_training_picture():
    pairs = [("noto", "red"), ("fluent", "blue")]
    pictures = np.stack(
        [
            place(icon(colour), 64, 51, 6, 6).astype(np.float32) / 255
            for colour in ((220, 20, 20, 255), (20, 20, 220, 255))
        ]
    )
    judge = Judge.from_pictures(pictures, pairs)
    reddish = place(icon((180, 60, 70, 255)), 64, 38, 0, 0).astype(np.float32) / 255
    assert judge.nearest(reddish) == ("noto", "red")


def test_an_empty_picture_can_be_judged():
    assert crop_to_foreground(np.ones((32, 32, 3), np.float32)).min() == 1


def test_the_interval_of_a_share_is_wilsons():
    assert wilson_interval(80, 100) == pytest.approx((0.7112, 0.8666), abs=1e-4)


PLAN = Training(steps=12, learning_rate=1e-2, ema_decay=0.9, warmup_steps=3)


def toy_problem():
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 4)

    def loss_at(step: int) -> torch.Tensor:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (network(x) - x.flip(1)).square().mean()

    return network, loss_at


def test_a_resumed_training_run_equals_the_uninterrupted_one(tmp_path):
    assert train(*toy_problem(), PLAN, tmp_path / "whole")
    assert not train(*toy_problem(), PLAN, tmp_path / "parts", stop_at=5)
    assert train(*toy_problem(), PLAN, tmp_path / "parts")
    whole, parts = averaged_weights(tmp_path / "whole"), averaged_weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


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


def test_a_stage_without_a_checkpoint_says_which_stage_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the stage 'diffusion' first"):
        averaged_weights(tmp_path / "diffusion")


@pytest.fixture(scope="module")
def text_to_image():
    torch.manual_seed(0)
    network = TextToImage(vocabulary(concepts()))
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


def test_the_loader_samples_exactly_what_the_recipe_trained(text_to_image, tmp_path):
    rows, rng = 2 * len(concepts()), np.random.default_rng(0)
    (tmp_path / "icons").mkdir()
    np.save(tmp_path / "icons" / "concepts.npy", rng.integers(0, 256, (rows // 2, 2, 32, 32, 4), np.uint8))
    save_average(Autoencoder(), tmp_path / "autoencoder")
    save_average(text_to_image, tmp_path / "diffusion")
    np.save(tmp_path / "diffusion" / "latents-256.npy", rng.standard_normal((rows, 1, 8, 4, 4)).astype(np.float16))
    weights = tmp_path / "shipped" / "weights.safetensors"
    export(tmp_path / "icons", tmp_path / "autoencoder", tmp_path / "diffusion", weights)

    model, clip, _ = load_embedded_model(weights)
    text = clip.encode_from_tokens(clip.tokenize("noto red apple"))
    noisy, t = torch.randn(1, 8, 16, 16), torch.tensor([0.7])
    with torch.no_grad():
        velocity = text_to_image(noisy, t, ["noto red apple"])
        denoised = model.model.apply_model(noisy, t, c_crossattn=text)
    assert velocity.std() > 0.01
    assert ((noisy - denoised) / t - velocity).abs().max() < 0.02 * velocity.std()  # fp16 weights
    assert len(Judge.shipped(weights.parent).pairs) == rows
