"""Compiled models with all techniques: by ComfyUI's own node, on a backend that runs the traced graphs as they are and
under --full on the one that compiles them, and by nodes of other packs, which put the compiled network in the model's
place."""

import pytest
import torch
from comfy_extras.nodes_torch_compile import TorchCompileModel
from torch._dynamo.utils import counters

import tiny_models
from compare import largest_difference
from postdiff.postdiff_core import cost, patch
from postdiff.postdiff_core.presets import PRESETS, family_of

STEPS = 8
CASES = {"sd15": tiny_models.small_unet, "pixart_alpha": tiny_models.pixart_alpha}


@pytest.fixture(autouse=True)
def fresh_dynamo(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # the usual one may hold what a stopped run left
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.timeout(3600)  # a trace takes seconds on an idle core, compiling it a minute
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.full)])
@pytest.mark.parametrize("preset", CASES)
def test_a_compiled_model_gives_the_same_latent_and_each_kind_of_step_one_graph(preset, backend):
    model = CASES[preset]()
    expected = tiny_models.stock_sample(patch.fill(model, PRESETS[preset]), steps=STEPS)
    compiled = patch.fill(TorchCompileModel.execute(model, backend).result[0], PRESETS[preset])

    assert largest_difference(expected, tiny_models.stock_sample(compiled, steps=STEPS)) < 1e-5
    kinds = {tuple(step.values()) for step in patch.carried_by(compiled).last_report["plan"]}
    traced = counters["stats"]["unique_graphs"]
    assert not counters["graph_break"]
    assert traced <= 2 * len(kinds)

    tiny_models.stock_sample(compiled, steps=STEPS)
    assert counters["stats"]["unique_graphs"] == traced  # a second run compiles nothing


@pytest.mark.parametrize("preset", CASES)
def test_a_compiled_network_in_the_models_place_is_recognised_and_counted_before_and_while_it_is_loaded(preset):
    model = CASES[preset]()
    *_, height, width = tiny_models.latent(model)["samples"].shape
    work = cost.step_work(model.model, height, width, rows=1, tokens=7)
    compiled = model.clone()
    compiled.add_object_patch("diffusion_model", torch.compile(model.model.diffusion_model))
    patch.fill(compiled, PRESETS[preset])  # nothing is refused
    assert family_of(compiled) == preset
    compiled.patch_model()
    try:
        assert family_of(compiled) == preset
        assert cost.step_work(model.model, height, width, rows=1, tokens=7) == work
    finally:
        compiled.unpatch_model()
