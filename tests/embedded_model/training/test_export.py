"""The shipped files are what the recipe trained."""

import numpy as np
import pytest
import torch

from postdiff.embedded_model.architecture import Autoencoder
from postdiff.embedded_model.loader import load_embedded_model
from postdiff.embedded_model.training.captions import held_out, read_held_out
from postdiff.embedded_model.training.config import Recipe, concepts
from postdiff.embedded_model.training.export import export, unpack
from postdiff.embedded_model.training.judge import Judge
from postdiff.embedded_model.training.loop import averaged_weights


def save_average(network: torch.nn.Module, folder):
    folder.mkdir()
    average = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"average": average}, folder / "checkpoint.pt")


ROWS = 2 * len(concepts())


@pytest.fixture(scope="module")
def exported(text_to_image, patches, tmp_path_factory):
    """The folder of a recipe that is done but for its networks' weights, which are random; exported to `shipped`."""
    folder, rng = tmp_path_factory.mktemp("recipe"), np.random.default_rng(0)
    (folder / "icons").mkdir()
    np.save(folder / "icons" / "concepts.npy", rng.integers(0, 256, (ROWS // 2, 2, 16, 16, 4), np.uint8))
    save_average(Autoencoder(), folder / "autoencoder")
    save_average(text_to_image, folder / "diffusion")
    weights = folder / "shipped" / "weights.safetensors"
    export(Recipe(), folder / "icons", folder / "autoencoder", patches, folder / "diffusion", weights)
    return folder


def test_the_loader_samples_exactly_what_the_recipe_trained(text_to_image, exported):
    weights = exported / "shipped" / "weights.safetensors"
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
    assert len(judge.pairs) == ROWS
    assert judge.categories["red apple"] == "food"
    assert sum(map(len, read_held_out(weights.parent).values())) == len(held_out(Recipe()))


def test_unpacked_weights_are_the_stages_they_came_from(exported, tmp_path):
    stages = ("autoencoder", "diffusion")
    unpack(Recipe(), exported / "shipped" / "weights.safetensors", *(tmp_path / stage for stage in stages))
    for stage in stages:
        found, trained = averaged_weights(tmp_path / stage), averaged_weights(exported / stage)
        assert found.keys() == trained.keys()
        for name, tensor in trained.items():
            assert torch.equal(found[name], tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor)
