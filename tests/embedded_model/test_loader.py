"""The shipped model through stock nodes, and what a user reads when its file is missing or damaged."""

import shutil
from pathlib import Path

import comfy.lora
import comfy.samplers
import latent_preview
import nodes
import pytest
import torch

from postdiff.embedded_model.loader import RECOMMENDED, WEIGHTS, EmbeddedModelError, checksum_file, load_embedded_model


@pytest.fixture(scope="module")
def loaded():
    return load_embedded_model()


def condition(clip, text):
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def sample(loaded, prompt="noto red apple", seed=0, latent=None, steps=2, denoise=1.0, side=128):
    model, clip, _ = loaded
    latent = latent or nodes.EmptyLatentImage().generate(side, side, 1)[0]
    return nodes.KSampler().sample(
        model, seed, steps, RECOMMENDED["cfg"], RECOMMENDED["sampler_name"], RECOMMENDED["scheduler"],
        condition(clip, prompt), condition(clip, ""), latent, denoise,
    )[0]  # fmt: skip


def test_the_weights_stay_within_16_megabytes():
    assert WEIGHTS.stat().st_size <= 16_000_000


def test_a_ksampler_run_gives_a_finite_picture_that_repeats_with_its_seed(loaded):
    first, again, other = (sample(loaded, seed=seed)["samples"] for seed in (1, 1, 2))
    assert first.shape == (1, 8, 16, 16)
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    picture = nodes.VAEDecode().decode(loaded[2], {"samples": first})[0]
    assert picture.shape == (1, 128, 128, 3)
    assert picture.min() >= 0 and picture.max() <= 1


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_every_scheduler_descends_to_zero(loaded, scheduler):
    sigmas = comfy.samplers.calculate_sigmas(loaded[0].get_model_object("model_sampling"), scheduler, 20)
    assert sigmas[0] > 0.9
    assert sigmas[-1] == 0
    assert (sigmas.diff() <= 0).all()


def test_sixteen_bit_weights_are_sampled_in_32_bit_on_a_cpu(loaded):
    model = loaded[0].model
    assert (model.manual_cast_dtype or model.get_dtype()) == torch.float32
    assert loaded[2].vae_dtype == torch.float32


def test_prompt_weights_change_the_text_and_unknown_words_are_accepted(loaded):
    plain, weighted, unknown = (
        condition(loaded[1], f"noto {name}")[0][0] for name in ("fox", "(fox:1.4)", "qwertyuiop")
    )
    assert plain.shape == (1, 16, 128)
    assert not torch.allclose(plain, weighted)
    assert torch.isfinite(unknown).all()


def test_a_prompt_longer_than_the_text_encoder_is_split_into_chunks(loaded):
    assert condition(loaded[1], " ".join(["noto red apple"] * 8))[0][0].shape == (1, 32, 128)


def test_encoding_a_picture_and_decoding_it_again_gives_the_picture(loaded):
    vae = loaded[2]
    picture = torch.ones(1, 128, 128, 3)
    picture[:, 32:96, 32:96] = torch.tensor([0.9, 0.2, 0.2])
    latent = nodes.VAEEncode().encode(vae, picture)[0]
    assert latent["samples"].shape == (1, 8, 16, 16)
    assert (nodes.VAEDecode().decode(vae, latent)[0] - picture).abs().mean() < 0.03
    tiled = nodes.VAEDecodeTiled().decode(vae, latent, 64, overlap=16)[0]
    assert (tiled - picture).abs().mean() < 0.05


def test_img2img_keeps_what_an_inpainting_mask_protects(loaded):
    latent = nodes.VAEEncode().encode(loaded[2], torch.ones(1, 128, 128, 3))[0]
    mask = torch.zeros(1, 128, 128)
    mask[:, :, 64:] = 1
    masked = nodes.SetLatentNoiseMask().set_mask(latent, mask)[0]
    changed = (sample(loaded, latent=masked, denoise=0.7)["samples"] - latent["samples"]).abs().amax(dim=(0, 1, 2))
    assert changed[:7].max() < 1e-4
    assert changed[9:].max() > 0.1


def test_every_linear_layer_of_the_unet_can_take_a_lora(loaded):
    keys = set(comfy.lora.model_lora_keys_unet(loaded[0].model, {}).values())
    linear = {
        f"{name}.weight" for name, module in loaded[0].model.named_modules() if isinstance(module, torch.nn.Linear)
    }
    assert linear
    assert linear <= keys


def test_a_loader_lora_reaches_the_text_encoder_too(loaded):
    assert comfy.lora.model_lora_keys_clip(loaded[1].cond_stage_model, {})


def test_a_preview_shows_the_colours_of_the_picture(loaded):
    picture = torch.ones(1, 128, 128, 3) * torch.tensor([0.85, 0.15, 0.15])
    latent = nodes.VAEEncode().encode(loaded[2], picture)[0]["samples"]
    previewer = latent_preview.Latent2RGBPreviewer(
        loaded[0].model.latent_format.latent_rgb_factors, loaded[0].model.latent_format.latent_rgb_factors_bias
    )
    red, green, blue = previewer.decode_latent_to_preview(latent).getpixel((8, 8))
    assert red > 150 > 120 > max(green, blue)


def test_checkpoint_save_writes_weights_that_the_loader_takes_again(loaded, tmp_path):
    import comfy.sd
    import comfy.utils

    from postdiff.embedded_model import loader

    model, clip, vae = loaded
    comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), model, clip, vae)
    saved = comfy.utils.load_torch_file(str(tmp_path / "saved.safetensors"))
    shipped, _ = loader._read(WEIGHTS)
    unet = {key: tensor.float() for key, tensor in saved.items() if key.startswith(loader.UNET_PREFIX)}
    assert unet.keys() == {key for key in shipped if key.startswith(loader.UNET_PREFIX)}
    assert all(torch.equal(tensor, shipped[key].float()) for key, tensor in unet.items())


def copy_weights(folder: Path) -> Path:
    shutil.copy(WEIGHTS, folder)
    shutil.copy(checksum_file(WEIGHTS), folder)
    return folder / WEIGHTS.name


def test_a_missing_file_is_named_with_its_remedy(tmp_path):
    with pytest.raises(EmbeddedModelError, match=r"weights are missing: .*absent\.safetensors.*git checkout"):
        load_embedded_model(tmp_path / "absent.safetensors")


def test_a_missing_checksum_is_named(tmp_path):
    weights = copy_weights(tmp_path)
    checksum_file(weights).unlink()
    with pytest.raises(EmbeddedModelError, match=r"checksum .* is missing: .*\.sha256"):
        load_embedded_model(weights)


def test_a_truncated_file_is_refused(tmp_path):
    weights = copy_weights(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(EmbeddedModelError, match=r"damaged: .*bytes.*git checkout"):
        load_embedded_model(weights)


def test_a_changed_file_is_refused(tmp_path):
    weights = copy_weights(tmp_path)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(EmbeddedModelError, match=r"damaged: .*sha256"):
        load_embedded_model(weights)
