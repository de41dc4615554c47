"""Section 2.5, guidance cut-off: against the reference in plain torch, and row by row."""

import comfy.samplers
import pytest
import torch
from comfy.samplers import calc_cond_batch
from comfy_extras.nodes_nag import NAGuidance

import companions
import pack_nodes
import tiny_models
from compare import assert_like_reference, inputs_with_prompts
from reference import Techniques


@pytest.mark.parametrize(("batch", "negative_tokens"), [(1, 7), (2, 5)])
@pytest.mark.parametrize("build", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
def test_the_cut_off_equals_the_reference(build, batch, negative_tokens):
    inputs = inputs_with_prompts(build(), batch=batch, negative_tokens=negative_tokens)
    assert_like_reference(Techniques(cutoff_start=0.5), inputs)


def test_from_the_first_step_on_the_latent_is_that_of_guidance_1():
    inputs = inputs_with_prompts(tiny_models.sd15())
    unguided = tiny_models.stock_sample(**(inputs | {"cfg": 1.0}))
    assert torch.equal(pack_nodes.sample(Techniques(cutoff_start=0.0), inputs=inputs), unguided)


def test_the_negative_prompt_is_not_evaluated_after_the_cut_off():
    """Under uniform timesteps, 0.75 of 8 steps are 6."""
    model = tiny_models.sd15()
    rows = []
    model.model.diffusion_model.register_forward_pre_hook(lambda _network, inputs: rows.append(len(inputs[0])))
    inputs = inputs_with_prompts(model, scheduler="sgm_uniform", steps=8)
    pack_nodes.sample(Techniques(cutoff_start=0.75), inputs=inputs)
    assert rows == [2] * 6 + [1] * 2


@pytest.mark.parametrize(
    ("techniques", "guidance_rows"),
    [
        (Techniques(cutoff_start=0.0), [2, 1, 1, 1, 1, 1]),
        (Techniques(cutoff_start=0.5), [2, 2, 2, 1, 1, 1]),
        (Techniques(low_res_scale=0.5, low_res_until=0.5, cutoff_start=0.5), [2, 2, 2, 2, 1, 1]),
        (Techniques(low_res_scale=0.5, low_res_until=0.5, cutoff_start=0.0), [2, 1, 1, 2, 1, 1]),
    ],
)
def test_self_attention_guidance_finds_the_negative_prompts_attention_at_each_size(techniques, guidance_rows):
    """It keeps that of the last evaluation, and fails where there was none or one of another size."""
    model = tiny_models.small_unet()
    latent = tiny_models.latent(model, 32, 32)
    inputs = companions.sag(inputs_with_prompts(model, scheduler="sgm_uniform", steps=6, latent_image=latent))
    patched = pack_nodes.patched(inputs["model"], techniques)
    rows = []
    model.model.diffusion_model.register_forward_pre_hook(lambda _network, given: rows.append(len(given[0])))
    first = tiny_models.stock_sample(**inputs | {"model": patched})
    assert rows == [each for guided in guidance_rows for each in (guided, 1)]
    assert torch.equal(tiny_models.stock_sample(**inputs | {"model": patched}), first)
    once_more = guidance_rows != [2, 2, 2, 1, 1, 1]
    assert any("SelfAttentionGuidance" in note for note in pack_nodes.report(patched)["notes"]) == once_more


def test_the_negative_prompt_is_evaluated_where_it_is_asked_for_at_another_latent():
    """By guidance away from a changed picture; at the given one, the prompts were evaluated one after the other."""
    model, rows = tiny_models.small_unet().clone(), []
    model.model.diffusion_model.register_forward_pre_hook(lambda _network, given: rows.append(len(given[0])))

    def one_by_one(args):
        x, sigma, options = args["input"], args["sigma"], args["model_options"]
        cond, uncond = args["conds"]
        positive, _ = calc_cond_batch(args["model"], [cond, None], x, sigma, options)
        _, negative = calc_cond_batch(args["model"], [None, uncond], x, sigma, options)
        return [positive, negative]

    def away_from_changed(args):
        x, sigma, options = args["input"], args["sigma"], args["model_options"]
        (changed,) = calc_cond_batch(args["model"], [args["uncond"]], 0.9 * x, sigma, options)
        return args["denoised"] + 0.1 * (args["denoised"] - changed)

    model.set_model_sampler_calc_cond_batch_function(one_by_one)
    model.set_model_sampler_post_cfg_function(away_from_changed)
    inputs = inputs_with_prompts(model, scheduler="sgm_uniform", steps=6)
    pack_nodes.sample(Techniques(cutoff_start=0.5), inputs=inputs)
    assert rows == [1] * (3 * 3 + 3 * 2)


def test_a_guidance_function_may_write_to_either_prediction():
    """Such as those that sharpen the difference of the two where they are."""
    latents = []
    for is_in_place in (True, False):
        model = tiny_models.small_unet()

        def weakened(args, is_in_place=is_in_place):
            predictions = args["conds_out"] if is_in_place else [each.clone() for each in args["conds_out"]]
            predictions[1] *= 0.8
            return predictions

        model.set_model_sampler_pre_cfg_function(weakened)
        latents.append(pack_nodes.sample(Techniques(cutoff_start=0.5), inputs=inputs_with_prompts(model)))
    assert torch.equal(*latents)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_guidance_goes_on_where_a_node_takes_the_predictions(monkeypatch, start):
    """As smZNodes does for prompts with weights: the host's own list is left empty."""
    stock, taken = comfy.samplers._calc_cond_batch, []

    def take(*given):
        taken[:] = stock(*given)
        return []

    def guide(model, x, timestep, negative, positive, cfg, model_options, seed):
        comfy.samplers.calc_cond_batch(model, [positive, negative], x, timestep, model_options)
        return taken[1] + cfg * (taken[0] - taken[1])

    inputs = inputs_with_prompts(tiny_models.small_unet())
    expected = tiny_models.stock_sample(**inputs)
    monkeypatch.setattr(comfy.samplers, "_calc_cond_batch", take)
    monkeypatch.setattr(comfy.samplers, "sampling_function", guide)
    model = pack_nodes.patched(inputs["model"], Techniques(cutoff_start=start))
    assert torch.equal(tiny_models.stock_sample(**inputs | {"model": model}), expected)
    assert any("a node takes the predictions" in note for note in pack_nodes.report(model)["notes"])
    assert all(step["cfg"] == "on" for step in pack_nodes.report(model)["plan"])


def test_what_needs_the_negative_prompt_at_cfg_1_is_said_to_end():
    """Normalized attention guidance is for cfg 1, and does nothing without the negative prompt's rows."""
    said = []
    for model in (tiny_models.small_unet(), NAGuidance.execute(tiny_models.small_unet(), 5.0, 0.5, 1.5).args[0]):
        patched = pack_nodes.patched(model, Techniques(cutoff_start=0.5))
        tiny_models.stock_sample(**inputs_with_prompts(model, cfg=1.0) | {"model": patched})
        said.append([note for note in pack_nodes.report(patched)["notes"] if "NAGuidance" in note])
    assert [len(notes) for notes in said] == [0, 1]
    assert "put CFG Cut-off with start_percent 1 on the model" in said[1][0]


def test_what_needs_the_negative_prompt_at_cfg_1_goes_on_to_the_end_as_its_note_advises():
    model = NAGuidance.execute(tiny_models.small_unet(), 5.0, 0.5, 1.5).args[0]
    inputs = inputs_with_prompts(model, cfg=1.0)
    dropped = pack_nodes.patched(model, Techniques(cutoff_start=0.5))
    kept = pack_nodes.with_cfg_cutoff(dropped, Techniques(cutoff_start=1.0))
    latents = [tiny_models.stock_sample(**inputs | {"model": each}) for each in (model, dropped, kept)]
    assert torch.equal(latents[0], latents[2]) and not torch.equal(latents[0], latents[1])
