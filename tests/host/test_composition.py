"""All techniques together with what users combine them with, where the matrix (test_matrix.py) says too little."""

import logging
from dataclasses import replace

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.model_patcher import ModelPatcher

import companions
import pack_nodes
import stock_mixed_resolution as by_hand
import tiny_models
from compare import TOLERANCE, inputs_with_prompts, largest_difference
from reference import EVERYTHING, Techniques

STEPS = 8
ALL_TECHNIQUES = replace(EVERYTHING, low_res_until=0.5)
LOW, REFRESH, CROSS_ATTENTION, GUIDED = {0, 1, 2, 3}, {0, 2, 4, 6}, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4, 5, 6}


def inputs_for(model, **given):
    return inputs_with_prompts(model, **({"scheduler": "simple", "steps": STEPS} | given))


def inputs_beside(name, model, **given):
    """SAG fails in the host where the middle block has a single token."""
    side = 32 if name == "sag" else 16
    return inputs_for(model, latent_image=tiny_models.latent(model, side, side), **given)


def with_companion(name, inputs):
    return companions.COMPANIONS[name](inputs)


def patched(inputs, techniques=ALL_TECHNIQUES):
    return inputs | {"model": pack_nodes.patched(inputs["model"], techniques)}


class Record:
    """How many rows pass through parts of a U-Net in each step, from hooks on its layers."""

    def __init__(self, model):
        unet = model.model.diffusion_model
        self.sides = []
        self.rows = {}
        self.timesteps = []
        shallow, deep = unet.output_blocks[-1][1], unet.output_blocks[3][1]
        parts = {
            "network": unet,
            "middle": unet.middle_block[0],
            "shallow cross-attention": shallow.transformer_blocks[0].attn2.to_out,
            "deep cross-attention": deep.transformer_blocks[0].attn2.to_out,
        }
        self.hooks = [part.register_forward_pre_hook(self.counter(name)) for name, part in parts.items()]

    def counter(self, name):
        def count(_module, inputs):
            if name == "network":
                self.begin(inputs)
            step = len(self.timesteps) - 1
            self.rows[name, step] = self.rows.get((name, step), 0) + inputs[0].shape[0]

        return count

    def begin(self, inputs):
        """A call at another timestep begins another step."""
        timestep = inputs[1][0].item()
        if timestep not in self.timesteps:
            self.timesteps.append(timestep)
            self.sides.append(inputs[0].shape[-1])

    def of(self, name):
        return [self.rows.get((name, step), 0) for step in range(len(self.timesteps))]


def recorded(inputs):
    record = Record(inputs["model"])
    latent = tiny_models.stock_sample(**inputs)
    for hook in record.hooks:
        hook.remove()
    return record, latent


def planned(steps, rows):
    return [rows[i] if i in steps else 0 for i in range(STEPS)]


@pytest.mark.parametrize("name", companions.COMPANIONS)
def test_a_companion_is_itself_again_after_a_run(name):
    inputs = with_companion(name, inputs_beside(name, tiny_models.sd15(), steps=4))
    stock = tiny_models.stock_sample(**inputs)
    together = tiny_models.stock_sample(**patched(inputs))
    assert torch.equal(tiny_models.stock_sample(**inputs), stock)
    assert torch.equal(tiny_models.stock_sample(**patched(inputs)), together)


def without_time(network):
    """Let a network see no timestep."""
    for layer in network.modules():
        if isinstance(layer, ResBlock):
            layer.emb_layers[1].weight.data.zero_()
            layer.emb_layers[1].bias.data.zero_()


def still_picture_noise(inputs, *, batch=1):
    """The noise predicted at every noise level of a picture that, seen by the model, is always the same."""
    picture = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    predicted = []

    def stand_still(model, _noise, sigmas, extra_args, callback, disable):
        for sigma in sigmas[:-1]:
            x = picture * torch.sqrt(1 + sigma**2)
            denoised = model(x, sigma.expand(batch), **extra_args)
            predicted.append((x - denoised) / sigma)
        return picture

    guider = by_hand.cfg_guider(inputs["model"], inputs["positive"], inputs["negative"], inputs["cfg"])
    sampler = comfy.samplers.KSAMPLER(stand_still)
    empty = torch.zeros(batch, 4, 16, 16)
    guider.sample(comfy.sample.prepare_noise(empty, 7), empty, sampler, by_hand.sigmas_of(inputs), seed=7)
    return predicted


STANDS_STILL = [
    companion for companion in (*companions.COMPANIONS.values(), companions.regions) if companion is not companions.sag
]  # SAG's blur depends on the noise level


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("companion", STANDS_STILL)
def test_on_a_still_picture_what_is_reused_is_what_would_be_computed(companion, depth, monkeypatch):
    """Wrong if a control, a replaced attention or a numbered module of the companion meets the wrong layer."""
    model = tiny_models.sd15()
    without_time(model.model.diffusion_model)
    fill = companions.fill
    monkeypatch.setattr(companions, "fill", lambda network, *seed: (fill(network, *seed), without_time(network)))
    inputs = companion(inputs_for(model, steps=4))
    first, *computed = still_picture_noise(inputs)
    assert all(largest_difference(first, noise) < TOLERANCE for noise in computed), "the picture does not stand still"
    reused = still_picture_noise(patched(inputs, Techniques(interval=2, depth=depth, cross_attn_start=0.5)))
    assert all(largest_difference(first, noise) < TOLERANCE for noise in reused)


@pytest.fixture
def low_memory(monkeypatch):
    """No memory for two rows at once: the host evaluates the prompts one after the other."""
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda _self, _device: 0)


@pytest.mark.parametrize("mode", ["cond", "average", "cfg"])
@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.pixart_alpha])
def test_prompts_evaluated_one_after_the_other_give_the_same_latent(build, mode, request):
    model = build()
    inputs = inputs_for(model)
    interval = 1 if tiny_models.is_transformer(model) else 2
    techniques = Techniques(
        low_res_scale=0.5,
        low_res_until=0.5,
        interval=interval,
        depth=2,
        cross_attn_start=0.6,
        cutoff_start=0.8,
        mode=mode,
    )
    together = tiny_models.stock_sample(**patched(inputs, techniques))
    request.getfixturevalue("low_memory")
    rows = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda _network, given: rows.append(len(given[0])))
    split = tiny_models.stock_sample(**patched(inputs, techniques))
    hook.remove()
    assert rows == [1] * (2 * len(GUIDED) + 1)
    assert largest_difference(together, split) < TOLERANCE


def test_companions_together_leave_out_the_planned_work(low_memory, caplog):
    caplog.set_level(logging.WARNING)
    inputs = inputs_for(tiny_models.sd15(), batch=2, sampler_name="dpmpp_2m")
    for name in ("controlnet", "lora", "freeu", "pag", "ip_adapter"):
        inputs = with_companion(name, inputs)
    record, latent = recorded(patched(inputs))
    rows = [2 * (3 if i in GUIDED else 2) for i in range(STEPS)]
    assert torch.isfinite(latent).all()
    assert record.of("network") == rows
    assert record.of("middle") == planned(REFRESH, rows)
    assert record.of("shallow cross-attention") == planned(CROSS_ATTENTION, rows)
    assert not [said for said in caplog.messages if "control" in said]


@pytest.mark.parametrize("mode", ["average", "uncond", "cfg"])
def test_rows_that_are_no_pair_reuse_their_own_whatever_the_mode(mode):
    inputs = companions.regions(inputs_for(tiny_models.sd15()))

    def latent(mode):
        techniques = Techniques(cross_attn_start=0.5, cutoff_start=0.7, mode=mode)
        return tiny_models.stock_sample(**patched(inputs, techniques))

    assert torch.equal(latent(mode), latent("cond"))


def test_the_low_resolution_stage_scales_gligen_boxes():
    inputs = with_companion("gligen", inputs_for(tiny_models.sd15()))
    techniques = Techniques(low_res_scale=0.5, low_res_until=0.5)

    def boxed(box):
        kind, network, ((embedding, *_),) = inputs["positive"][0][1]["gligen"]
        return [[inputs["positive"][0][0], {"gligen": (kind, network, [(embedding, *box)])}]]

    def guider_for(model, stage):
        positive = boxed((8, 10, 4, 2) if stage == "full" else (4, 5, 2, 1))
        return by_hand.cfg_guider(model, positive, inputs["negative"], inputs["cfg"])

    expected = by_hand.sample(inputs, low=(8, 8), switch=4, guider_for=guider_for)
    assert torch.equal(tiny_models.stock_sample(**patched(inputs, techniques)), expected)
    assert inputs["positive"][0][1]["gligen"][2][0][1:] == (8, 10, 4, 2)


def test_control_hints_follow_the_stage():
    inputs = with_companion("controlnet", inputs_for(tiny_models.sd15()))
    expected = by_hand.sample(inputs, low=(8, 8), switch=4)
    latent = tiny_models.stock_sample(**patched(inputs, Techniques(low_res_scale=0.5, low_res_until=0.5)))
    assert torch.equal(latent, expected)
