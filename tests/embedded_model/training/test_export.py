"""The shipped files are what the recipe trained."""

import numpy as np
import torch

from postdiff.embedded_model.architecture import Autoencoder
from postdiff.embedded_model.loader import load_embedded_model
from postdiff.embedded_model.training.captions import held_out, read_held_out
from postdiff.embedded_model.training.config import Recipe, concepts
from postdiff.embedded_model.training.export import export
from postdiff.embedded_model.training.judge import Judge


def save_average(network: torch.nn.Module, folder):
    folder.mkdir()
    average = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save({"average": average}, folder / "checkpoint.pt")


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
