"""ComfyUI's own TorchCompileModel node with all techniques, on a backend that runs the traced graphs as they are."""

import pytest
import torch
from comfy_extras.nodes_torch_compile import TorchCompileModel
from torch._dynamo.utils import counters

import tiny_models
from compare import largest_difference
from postdiff.postdiff_core import patch
from postdiff.postdiff_core.presets import PRESETS

STEPS = 8
CASES = {"sd15": tiny_models.small_unet, "pixart_alpha": tiny_models.pixart_alpha}


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.timeout(1200)  # a trace takes seconds on an idle core
@pytest.mark.parametrize("preset", CASES)
def test_a_compiled_model_gives_the_same_latent_and_each_kind_of_step_one_graph(preset):
    model = CASES[preset]()
    expected = tiny_models.stock_sample(patch.fill(model, PRESETS[preset]), steps=STEPS)
    compiled = patch.fill(TorchCompileModel.execute(model, "eager").result[0], PRESETS[preset])

    assert largest_difference(expected, tiny_models.stock_sample(compiled, steps=STEPS)) < 1e-5
    kinds = {tuple(step.values()) for step in patch.carried_by(compiled).last_report["plan"]}
    traced = counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]
    assert traced <= 2 * len(kinds)

    tiny_models.stock_sample(compiled, steps=STEPS)
    assert counters["stats"]["unique_graphs"] == traced  # a second run compiles nothing
