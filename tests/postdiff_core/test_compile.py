"""Compiled models with all techniques: by ComfyUI's own node, on a backend that runs the traced graphs as they are and
under --full on the one that compiles them, and by nodes of other packs, which put the compiled network in the model's
place."""

import logging

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import TorchCompileModel
from torch._dynamo.utils import counters

import tiny_models
from compare import largest_difference
from postdiff.postdiff_core import cost, patch
from postdiff.postdiff_core.architecture import is_compiled
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
    assert traced <= len(kinds) + 1  # a step that computes cross-attention may keep it besides

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


BLOCKS = {
    "sd15": lambda name: name.endswith("transformer_blocks.0"),
    "pixart_alpha": lambda name: name.startswith("blocks.") and name.count(".") == 1,
}


@pytest.mark.parametrize("preset", CASES)
def test_blocks_that_are_compiled_alone_are_recognised(preset):
    """As other packs' nodes do, through the host's own helper."""
    model = CASES[preset]()
    expected = tiny_models.stock_sample(patch.fill(model, PRESETS[preset]), steps=STEPS)
    blocks = [name for name, _ in model.model.diffusion_model.named_modules() if BLOCKS[preset](name)]
    assert blocks
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, "eager", keys=[f"diffusion_model.{name}" for name in blocks])
    compiled = patch.fill(compiled, PRESETS[preset])
    assert largest_difference(expected, tiny_models.stock_sample(compiled, steps=STEPS)) < 1e-5
    traced = counters["stats"]["unique_graphs"]
    tiny_models.stock_sample(compiled, steps=STEPS)
    assert counters["stats"]["unique_graphs"] == traced > 0


def test_a_compiled_model_with_a_node_that_takes_only_the_full_size_runs_at_that():
    model = tiny_models.small_unet()
    model.set_model_input_block_patch(lambda h, options: h + h.new_zeros(16, 1) if options["block"][1] == 1 else h)
    compiled = patch.fill(TorchCompileModel.execute(model, "eager").result[0], PRESETS["sd15"])
    sample(compiled, 16)
    assert "All steps run at full size" in " ".join(patch.carried_by(compiled).last_report["notes"])


@pytest.mark.parametrize("wrap", ["nothing", "the model", "a block", "a block in place"])
def test_it_is_told_whether_anything_of_a_network_is_compiled(wrap):
    network = tiny_models.pixart_alpha().model.diffusion_model
    if wrap == "the model":
        network = torch.compile(network, backend="eager")
    elif wrap == "a block":
        network.blocks[0] = torch.compile(network.blocks[0], backend="eager")
    elif wrap == "a block in place":
        network.blocks[0].compile(backend="eager")
    assert is_compiled(network) == (wrap != "nothing")


def test_there_are_graphs_for_several_sizes(caplog):
    """By default dynamo keeps eight of a function, and runs what is new uncompiled from then on."""
    compiled = patch.fill(TorchCompileModel.execute(tiny_models.small_unet(), "eager").result[0], PRESETS["sd15"])
    sizes = [16, 24, 32]
    with caplog.at_level(logging.WARNING, logger="torch._dynamo"):
        for side in sizes:
            sample(compiled, side)
    assert "recompile_limit" not in caplog.text
    traced = counters["stats"]["unique_graphs"]
    for side in sizes:
        sample(compiled, side)
    assert counters["stats"]["unique_graphs"] == traced > 8


def sample(model, side):
    latent = {"samples": torch.zeros(1, 4, side, side)}
    return tiny_models.stock_sample(model, steps=20, latent_image=latent)
