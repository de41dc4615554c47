"""On a device of its own, as a GPU is one: tensors are never mixed with the processor's, and nobody waits for it."""

import comfy.k_diffusion.sampling
import comfy.samplers
import nodes as comfy_nodes
import pytest
import torch

import composition
import pack_nodes
import tiny_models
from compare import TOLERANCE, inputs_with_prompts, largest_difference
from composition import ROWS, SAMPLERS, TOGETHER
from postdiff.embedded_model.loader import load_embedded_model
from postdiff.nodes.mixed_resolution_patch import MixedResolutionPatch
from postdiff.postdiff_core.schedule import MODES
from pretended_device import PretendedDevice, pretended_device, streamed_weights
from reference import Techniques

PAPER = Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, depth=2, cross_attn_start=0.75, cutoff_start=0.75)
IN_HALF_PRECISION = {"fp16 weights": 0.01, "bf16 weights": 0.05}
DRAWS_OTHER_NOISE = {"LCM", "ModelSamplingDiscrete, lcm"}
"""The host seeds the noise that samplers add otherwise on the processor than on other devices."""
CANNOT = {"LTX-2 (nested latent)", "TorchCompileModel, backend eager", "unCLIP"}
"""Rows that the stock nodes cannot run on this device."""
ALWAYS = {
    "ConditioningSetArea",
    "ControlNet",
    "DifferentialDiffusion",
    "GLIGEN",
    "IPAdapter (attn2 replaced)",
    "LCM",
    "PixArt-alpha",
    "SDXL",
    "inpainting, soft mask",
    "prompts of 7 and 5 tokens",
}
OF_EULER = {"euler", "ddim"}
OF_OTHER_LEVELS = {"dpm_fast", "dpm_adaptive"}
READ_BY_TORCH = {"uni_pc", "uni_pc_bh2"}
"""They hand tensors of the device to torch.tensor, which this one cannot serve."""
OTHERS = [row.name for row in ROWS.values() if row.group != SAMPLERS and row.name not in ALWAYS | CANNOT]


@pytest.mark.parametrize("name", [*sorted(ALWAYS), *(pytest.param(name, marks=pytest.mark.full) for name in OTHERS)])
def test_every_companion_gives_the_latent_that_the_processor_gives(name):
    row = ROWS[name]

    def sample() -> list[torch.Tensor]:
        torch.manual_seed(0)  # some nodes draw from the global generator
        return composition.sampled(row.sample, row.inputs(), TOGETHER, counted=False).latents

    expected = sample()
    with pretended_device():
        latents = [latent.cpu() for latent in sample()]
    for one, other in zip(expected, latents, strict=True):
        assert torch.isfinite(other).all()
        if name not in DRAWS_OTHER_NOISE:
            assert largest_difference(one, other) < IN_HALF_PRECISION.get(name, row.tolerance)


@pytest.mark.parametrize("name", ["SD1.5", "SDXL", "ControlNet", "LoRA", "fp8 weights"])
def test_weights_that_each_layer_fetches_give_the_same_latent(name):
    row = ROWS[name]
    expected = composition.sampled(row.sample, row.inputs(), TOGETHER, counted=False).latents
    with pretended_device(), streamed_weights():
        inputs = row.inputs()
        assert inputs["model"].is_dynamic()
        latents = [latent.cpu() for latent in composition.sampled(row.sample, inputs, TOGETHER, counted=False).latents]
    assert max(map(largest_difference, expected, latents)) < row.tolerance


def test_the_embedded_model_has_copies_for_those_who_need_all_its_weights_at_once():
    """As torch.compile and hooks do."""
    with pretended_device(), streamed_weights():
        model, clip, _ = load_embedded_model()
        assert model.is_dynamic()
        (prompt,) = comfy_nodes.CLIPTextEncode().encode(clip.clone(disable_dynamic=True), "noto red apple")
        whole = model.clone(disable_dynamic=True)
        assert not whole.is_dynamic()
        one, other = (
            tiny_models.stock_sample(each, positive=prompt, negative=prompt, latent_image=tiny_models.latent(each))
            for each in (model, whole)
        )
    assert largest_difference(one.cpu(), other.cpu()) < 0.01


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_the_cross_attention_cache_gives_the_latent_that_the_processor_gives(mode):
    early = Techniques(low_res_scale=0.5, low_res_until=0.5, cross_attn_start=0.4, cutoff_start=0.75, mode=mode)

    def sample() -> torch.Tensor:
        return pack_nodes.sample(early, inputs=inputs_with_prompts(tiny_models.sd15()))

    expected = sample()
    with pretended_device():
        latent = sample().cpu()
    assert largest_difference(expected, latent) < TOLERANCE


def test_the_matched_switch_gives_the_latent_that_the_processor_gives():
    def sample() -> torch.Tensor:
        inputs = inputs_with_prompts(tiny_models.sd15())
        model = MixedResolutionPatch.execute(
            model=inputs["model"], low_res_scale=0.5, low_res_until=0.5, upscale_method="bilinear", switch="matched"
        ).args[0]
        return tiny_models.stock_sample(**{**inputs, "model": model})

    expected = sample()
    with pretended_device():
        latent = sample().cpu()
    assert largest_difference(expected, latent) < TOLERANCE


def asked_of(device: PretendedDevice, techniques: Techniques | None, **given) -> tuple[int, list[str]]:
    """The number of operators that a run asks for, and where the processor waits for the device."""
    inputs = inputs_with_prompts(tiny_models.sd15(), scheduler="karras", **given)
    if techniques is not None:
        inputs["model"] = pack_nodes.patched(inputs["model"], techniques)
    device.operators, device.waits = 0, []
    tiny_models.stock_sample(**inputs)
    return device.operators, device.waits


def test_no_step_of_euler_waits_for_the_device():
    with pretended_device() as device:
        _, in_four_steps = asked_of(device, PAPER, steps=4)
        _, in_eight_steps = asked_of(device, PAPER, steps=8)
    assert len(in_four_steps) == len(in_eight_steps), in_eight_steps


def test_euler_is_known_after_its_module_was_loaded_anew(monkeypatch):
    """RES4LYF does so, which makes another function of it."""
    euler = comfy.k_diffusion.sampling.sample_euler
    monkeypatch.setattr(comfy.k_diffusion.sampling, "sample_euler", lambda *args, **options: euler(*args, **options))
    test_no_step_of_euler_waits_for_the_device()


def test_no_step_without_guidance_waits_for_a_negative_prompt_that_has_a_range():
    with pretended_device() as device:
        ranged = tiny_models.conditioning(tiny_models.sd15(), seed=2, start_percent=0.0, end_percent=0.8)
        unguided = Techniques(cutoff_start=0.0)
        _, in_four_steps = asked_of(device, unguided, steps=4, negative=ranged)
        _, in_eight_steps = asked_of(device, unguided, steps=8, negative=ranged)
    assert len(in_four_steps) == len(in_eight_steps), in_eight_steps


def test_a_sampler_that_waits_in_each_step_waits_once_more():
    """The noise level is read, to know which step it is."""
    with pretended_device() as device:
        waits = {
            (steps, techniques): len(asked_of(device, techniques, steps=steps, sampler_name="dpmpp_2m")[1])
            for steps in (4, 8)
            for techniques in (None, PAPER)
        }
    assert waits[8, None] - waits[4, None] == 4
    assert waits[8, PAPER] - waits[4, PAPER] == 8


@pytest.mark.full
@pytest.mark.parametrize(
    "sampler_name",
    [name for name in comfy.samplers.SAMPLER_NAMES if name not in OF_EULER | OF_OTHER_LEVELS | READ_BY_TORCH],
)
def test_every_other_sampler_of_the_run_s_own_levels_waits_for_the_device_by_itself(sampler_name):
    """That is why only euler is spared reading the noise level."""
    with pretended_device() as device:
        _, in_four_steps = asked_of(device, None, steps=4, sampler_name=sampler_name)
        _, in_eight_steps = asked_of(device, None, steps=8, sampler_name=sampler_name)
    assert len(in_eight_steps) - len(in_four_steps) >= 3


def test_neutral_settings_ask_nothing_more_of_the_device():
    neutral = Techniques(low_res_scale=1.0, low_res_until=0.5, interval=1, cross_attn_start=1.0, cutoff_start=1.0)
    with pretended_device() as device:
        stock_operators, stock_waits = asked_of(device, None)
        operators, waits = asked_of(device, neutral)
    assert (operators, len(waits)) == (stock_operators, len(stock_waits))
