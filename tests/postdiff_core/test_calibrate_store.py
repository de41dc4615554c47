"""What a calibration keeps on disk: given back as it was, damaged parts missing, models told apart."""

import comfy.lora
import comfy.weight_adapter
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

import pack_nodes
import tiny_models
from postdiff.postdiff_core.calibrate.fingerprint import fingerprint
from postdiff.postdiff_core.calibrate.store import SCORES, Store
from reference import Techniques

ABOUT = {"model_class": "Tiny", "model": "abc"}
RUN, OTHER = {"steps": 4, "prompt": "é, \u65e5\u672c"}, {"steps": 5, "prompt": "é, \u65e5\u672c"}


def test_latents_and_scores_are_there_the_next_time(tmp_path):
    latent = torch.randn(1, 4, 8, 8)
    store = Store(tmp_path, ABOUT)
    store.put_latent(RUN, latent)
    store.put_score(RUN, "PSNR", {"PSNR": 30.5, "SSIM": 0.9})
    again = Store(tmp_path, ABOUT)
    assert torch.allclose(again.latent(RUN), latent, atol=2e-3)
    assert again.score(RUN, "PSNR") == {"PSNR": 30.5, "SSIM": 0.9}
    assert again.latent(OTHER) is None and again.score(OTHER, "PSNR") is None and again.score(RUN, "CLIP") is None


def test_another_model_or_sampling_has_a_store_of_its_own(tmp_path):
    Store(tmp_path, ABOUT).put_latent(RUN, torch.zeros(1, 4, 8, 8))
    assert Store(tmp_path, {**ABOUT, "cfg": 7.0}).latent(RUN) is None


def test_a_cleared_store_has_forgotten_everything_for_good(tmp_path):
    store = Store(tmp_path, ABOUT)
    store.put_latent(RUN, torch.zeros(1, 4, 8, 8))
    store.put_score(RUN, "PSNR", {"PSNR": 1.0})
    store.clear()
    for each in (store, Store(tmp_path, ABOUT)):
        assert each.latent(RUN) is None and each.score(RUN, "PSNR") is None


def test_a_line_cut_off_by_a_kill_is_lost_alone(tmp_path):
    store = Store(tmp_path, ABOUT)
    store.put_score(RUN, "PSNR", {"PSNR": 1.0})
    store.put_score(OTHER, "PSNR", {"PSNR": 2.0})
    file = store.folder / SCORES
    file.write_bytes(file.read_bytes()[:-9])
    cut = Store(tmp_path, ABOUT)
    assert cut.score(RUN, "PSNR") == {"PSNR": 1.0} and cut.score(OTHER, "PSNR") is None
    cut.put_score(OTHER, "PSNR", {"PSNR": 3.0})
    assert Store(tmp_path, ABOUT).score(OTHER, "PSNR") == {"PSNR": 3.0}


@pytest.mark.parametrize("line", [b"\xff\xfe", b"7", b"{}", b"[" * 100_000], ids=["bytes", "number", "empty", "nested"])
def test_a_damaged_line_is_lost_alone(tmp_path, line):
    store = Store(tmp_path, ABOUT)
    (store.folder / SCORES).write_bytes(line + b"\n")
    store.put_score(RUN, "PSNR", {"PSNR": 1.0})
    assert Store(tmp_path, ABOUT).score(RUN, "PSNR") == {"PSNR": 1.0}


@pytest.mark.parametrize("content", [b"", b"not a latent", b"\x10" * 400])
def test_a_damaged_latent_counts_as_not_drawn(tmp_path, content):
    store = Store(tmp_path, ABOUT)
    store.put_latent(RUN, torch.zeros(1, 4, 8, 8))
    (file,) = (store.folder / "runs").iterdir()
    file.write_bytes(content)
    assert store.latent(RUN) is None


def with_lora(model, strength=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    rows, columns = model.model.state_dict()[key].shape
    up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
    patched = model.clone()
    adapter = comfy.weight_adapter.LoRAAdapter({"x"}, (up, down, 2.0, None, None, None))
    assert patched.add_patches({key: adapter}, strength)
    return patched


def test_a_model_is_recognised_again_and_told_from_others():
    model = tiny_models.small_unet()
    prints = [
        fingerprint(each)
        for each in (
            model,
            tiny_models.small_unet(seed=1),
            tiny_models.lcm(),
            with_lora(model),
            with_lora(model, strength=0.5),
            with_lora(model, seed=1),
            pack_nodes.with_cfg_cutoff(model, Techniques(cutoff_start=0.5)),
        )
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(tiny_models.small_unet()) == fingerprint(model.clone()) == prints[0]
    assert fingerprint(with_lora(tiny_models.small_unet())) == prints[3]


def test_a_lora_that_is_merged_into_the_weights_for_a_run_changes_no_fingerprint():
    model = tiny_models.small_unet()
    patched = with_lora(model)
    before = fingerprint(model), fingerprint(patched)
    patched.patch_model()
    try:
        assert (fingerprint(model), fingerprint(patched)) == before
    finally:
        patched.unpatch_model()
    assert (fingerprint(model), fingerprint(patched)) == before


def test_a_noise_schedule_that_is_in_the_model_for_a_run_changes_no_fingerprint():
    model = tiny_models.small_unet()
    noise, lcm, velocity = (
        ModelSamplingDiscrete().patch(model, sampling, False)[0] for sampling in ("eps", "lcm", "v_prediction")
    )
    before = [fingerprint(each) for each in (model, noise, lcm, velocity)]
    assert len(set(before)) == len(before)
    lcm.patch_model()
    try:
        assert [fingerprint(each) for each in (model, noise, lcm, velocity)] == before
    finally:
        lcm.unpatch_model()
    assert [fingerprint(each) for each in (model, noise, lcm, velocity)] == before
