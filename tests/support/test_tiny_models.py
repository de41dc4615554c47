"""The tiny models are only of use if a latent depends on everything that the techniques leave out."""

import pytest
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.pixart.pixartms import PixArtMSBlock

import tiny_models
from compare import largest_difference

NOTICEABLE = 0.05  # of the latent's largest value
ALL_MODELS = tiny_models.MODELS | {"lcm": tiny_models.lcm}


@pytest.fixture(params=ALL_MODELS)
def model(request):
    return ALL_MODELS[request.param]()


def zeros(_module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(output)


def test_a_run_is_finite_and_repeats_to_the_bit(model):
    first = tiny_models.stock_sample(model)
    assert torch.isfinite(first).all()
    assert torch.equal(first, tiny_models.stock_sample(model))


def test_the_latent_depends_on_both_prompts_and_on_guidance(model):
    stock = tiny_models.stock_sample(model)
    for other in (
        {"positive": tiny_models.conditioning(model, seed=5)},
        {"negative": tiny_models.conditioning(model, seed=5)},
        {"cfg": 1.0},
    ):
        assert largest_difference(stock, tiny_models.stock_sample(model, **other)) > NOTICEABLE, other.keys()


def test_the_latent_depends_on_every_cross_attention_layer(model):
    stock = tiny_models.stock_sample(model, steps=2)
    layers = [
        block.attn2 if isinstance(block, BasicTransformerBlock) else block.cross_attn
        for block in model.model.diffusion_model.modules()
        if isinstance(block, (BasicTransformerBlock, PixArtMSBlock))
    ]
    assert layers
    for layer in layers:
        silenced = layer.register_forward_hook(zeros)
        changed = largest_difference(stock, tiny_models.stock_sample(model, steps=2))
        silenced.remove()
        assert changed > 1e-3


@pytest.mark.parametrize("build", tiny_models.UNETS.values(), ids=tiny_models.UNETS)
def test_the_latent_depends_on_the_blocks_below_every_depth(build):
    model = build()
    blocks = model.model.diffusion_model.output_blocks
    stock = tiny_models.stock_sample(model)
    for block in list(blocks)[:-1:2]:
        silenced = block[-1].register_forward_hook(zeros)  # the host calls a block's layers, never the block
        changed = largest_difference(stock, tiny_models.stock_sample(model))
        silenced.remove()
        assert changed > NOTICEABLE


def test_a_rounding_error_stays_one(model):
    """Otherwise no test could ask for equality within 1e-5."""
    stock = tiny_models.stock_sample(model)
    prompt = tiny_models.conditioning(model, seed=1)
    prompt[0][0] = prompt[0][0] * (1 + 1e-5)
    assert largest_difference(stock, tiny_models.stock_sample(model, positive=prompt)) < 1e-4


def test_the_kinds_of_prediction_are_those_of_the_models_they_stand_for():
    prediction = {name: build().model.model_type.name for name, build in ALL_MODELS.items()}
    assert prediction["sd2"] == "V_PREDICTION"
    assert {kind for name, kind in prediction.items() if name != "sd2"} == {"EPS"}
    assert tiny_models.auraflow().model.model_type.name == "FLOW"
    sampling = tiny_models.lcm().get_model_object("model_sampling")
    assert "ModelSamplingDiscreteDistilled" in [base.__name__ for base in type(sampling).__mro__]
