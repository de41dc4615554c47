"""Section 2.5, deep cache: against the reference in plain torch."""

from unittest import mock

import pytest
import torch
from comfy.patcher_extension import WrappersMP

import companions
import pack_nodes
import tiny_models
from compare import assert_like_reference, inputs_with_prompts
from postdiff.postdiff_core import deep_cache
from reference import Techniques


@pytest.mark.parametrize(("batch", "negative_tokens"), [(1, 7), (2, 7), (2, 5)])
@pytest.mark.parametrize("build", tiny_models.UNETS.values(), ids=tiny_models.UNETS)
def test_the_paper_setting_equals_the_reference(build, batch, negative_tokens):
    model = build()
    assert_like_reference(
        Techniques(interval=2, depth=2), inputs_with_prompts(model, batch=batch, negative_tokens=negative_tokens)
    )


@pytest.mark.parametrize("depth", [1, 3, 4, 7, 10, 11])
def test_depths_from_first_to_last_equal_the_reference(depth):
    assert_like_reference(Techniques(interval=2, depth=depth), inputs_with_prompts(tiny_models.sd15()))


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_depths_of_sdxl_equal_the_reference(depth):
    assert_like_reference(Techniques(interval=3, depth=depth), inputs_with_prompts(tiny_models.sdxl(), steps=5))


@pytest.mark.parametrize("interval", [3, 20])
def test_other_intervals_equal_the_reference(interval):
    assert_like_reference(Techniques(interval=interval, depth=3), inputs_with_prompts(tiny_models.sd15()))


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.3, 1.0), (0.3, 0.7)])
def test_reuse_keeps_to_its_window(start, end):
    assert_like_reference(
        Techniques(interval=3, depth=2, deep_start=start, deep_end=end),
        inputs_with_prompts(tiny_models.sd15(), steps=9),
    )


def test_pictures_whose_sides_do_not_halve_evenly_equal_the_reference():
    model = tiny_models.sd15()
    assert_like_reference(
        Techniques(interval=2, depth=4), inputs_with_prompts(model, latent_image=tiny_models.latent(model, 24, 15))
    )


def test_a_patch_after_the_middle_block_runs_where_that_block_does():
    """What is reused comes from behind it: it must not act twice."""
    model, steps = tiny_models.small_unet().clone(), []

    def patch(given):
        steps.append(given["timesteps"][0].item())
        return given

    model.set_model_middle_block_after_patch(patch)
    tiny_models.stock_sample(pack_nodes.with_deep_cache(model, Techniques(interval=2, depth=2)))
    assert len(steps) == 3


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_a_patch_that_changes_features_in_place_does_not_change_what_is_cached(depth):
    """Such as FreeU, which scales half of the channels where they are."""

    def in_place(h, skip, _options):
        h[:, ::2].mul_(1.25)
        return h, skip

    def apart(h, skip, options):
        return in_place(h.clone(), skip, options)

    latents = []
    for patch in (in_place, apart):
        model = tiny_models.sd15()
        model.set_model_output_block_patch(patch)
        patched = pack_nodes.with_deep_cache(model, Techniques(interval=4, depth=depth))
        latents.append(tiny_models.stock_sample(patched))
    assert torch.equal(*latents)


def test_context_windows_that_move_from_step_to_step_reuse_nothing_of_each_other():
    """Here no window lies where one lay in the step before, so that all is computed."""
    inputs = inputs_with_prompts(tiny_models.small_unet(), steps=4)
    inputs["latent_image"] = tiny_models.latent(inputs["model"], 16, 32)
    moving = companions.context_windows(inputs, context_schedule="looped_uniform", closed_loop=True)
    patched = pack_nodes.with_deep_cache(moving["model"], Techniques(interval=2, depth=2))
    assert torch.equal(tiny_models.stock_sample(**moving | {"model": patched}), tiny_models.stock_sample(**moving))


def test_windows_that_move_hold_no_more_in_a_longer_run_and_the_notes_say_that_nothing_was_reused():
    held = []
    for steps in (6, 18):
        inputs = inputs_with_prompts(tiny_models.small_unet(), steps=steps)
        inputs["latent_image"] = tiny_models.latent(inputs["model"], 16, 32)
        moving = companions.context_windows(inputs, context_schedule="looped_uniform", closed_loop=True)
        patched = pack_nodes.patched(moving["model"], Techniques(interval=steps, depth=2, cross_attn_start=0.3))
        tiny_models.stock_sample(**moving | {"model": patched})
        report = pack_nodes.report(patched)
        held.append(report["cached_bytes"])
        assert [note for note in report["notes"] if note.startswith("Context windows that move")]
    assert held[1] <= 1.2 * held[0]


def test_frames_of_another_packs_moving_windows_reuse_nothing_of_each_other():
    """As AnimateDiff-Evolved does: a pass for each window of frames, which it names in the transformer options."""
    inputs = inputs_with_prompts(tiny_models.small_unet(), steps=4, batch=4)
    windows, sigmas = [[[0, 1], [2, 3]], [[1, 2], [3, 0]]], []

    def by_windows(executor, model, conds, x, timestep, model_options):
        if timestep[0] not in sigmas:
            sigmas.append(timestep[0])
        predictions = [torch.zeros_like(x) for _ in conds]
        for frames in windows[sigmas.index(timestep[0]) % 2]:
            model_options["transformer_options"]["ad_params"] = {"sub_idxs": frames}
            parts = executor(model, conds, x[frames], timestep[frames], model_options)
            for whole, part in zip(predictions, parts, strict=True):
                whole[frames] = part
        return predictions

    inputs["model"].add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "another pack", by_windows)
    stock = tiny_models.stock_sample(**inputs)
    patched = pack_nodes.with_deep_cache(inputs["model"], Techniques(interval=2, depth=2))
    assert torch.equal(tiny_models.stock_sample(**inputs | {"model": patched}), stock)


def test_pictures_of_a_batch_that_are_evaluated_apart_reuse_nothing_of_what_was_kept_of_both():
    """A wrapper of the model call may divide a batch otherwise in each step."""
    inputs = inputs_with_prompts(tiny_models.small_unet(), steps=4, batch=2)
    sigmas = []

    def together_and_apart(apply_model, given):
        x, timestep = given["input"], given["timestep"]
        if timestep[0] not in sigmas:
            sigmas.append(timestep[0])
        if len(sigmas) % 2:
            return apply_model(x, timestep, **given["c"])
        out = torch.empty_like(x)
        for picture in (0, 1):
            out[picture::2] = apply_model(x[picture::2], timestep[picture::2], **rows_of(given["c"], picture))
        return out

    def rows_of(conds, picture):
        return conds | {"c_crossattn": conds["c_crossattn"][picture::2]}

    model = inputs["model"].clone()
    model.set_model_unet_function_wrapper(together_and_apart)
    patched = pack_nodes.with_deep_cache(model, Techniques(interval=2, depth=2))
    latent = tiny_models.stock_sample(**inputs | {"model": patched})
    sigmas.clear()
    assert torch.equal(latent, tiny_models.stock_sample(**inputs | {"model": model}))


def test_a_feature_fits_where_another_node_changes_sizes_within_the_model_for_a_part_of_the_run():
    """As HiDiffusion's RAUNet does, which makes small what goes down, and large again what comes up, until a step."""
    model, end = tiny_models.sd15(), []

    def is_small(options):
        end[:] = end or [options["sigmas"][0].item() / 20]  # of the first: most steps lie before
        return options["sigmas"][0] > end[0]

    def down(h, options):
        halves = options["block"] == ("input", 1) and is_small(options)
        return torch.nn.functional.avg_pool2d(h, 2) if halves else h

    def up(h, skip, options):
        doubles = options["block"] == ("output", 11) and is_small(options)
        return (torch.nn.functional.interpolate(h, size=skip.shape[-2:]) if doubles else h), skip

    model.set_model_input_block_patch(down)
    model.set_model_output_block_patch(up)
    patched = pack_nodes.with_deep_cache(model, Techniques(interval=20, depth=2))
    latent = tiny_models.stock_sample(patched)
    assert torch.isfinite(latent).all()
    assert not torch.equal(latent, tiny_models.stock_sample(model))


def test_a_run_notes_that_a_node_with_a_forward_of_its_own_does_nothing_where_the_deep_cache_acts():
    """As WaveSpeed's first block cache, which replaces the method for each model call."""
    model = tiny_models.small_unet()
    unet = model.model.diffusion_model

    def own_way(apply_model, given):
        with mock.patch.object(unet, "_forward", type(unet)._forward.__get__(unet)):
            return apply_model(given["input"], given["timestep"], **given["c"])

    other = model.clone()
    other.set_model_unet_function_wrapper(own_way)
    for each, notes in ((model, []), (other, [deep_cache.OTHER_FORWARD])):
        patched = pack_nodes.with_deep_cache(each, Techniques(interval=2, depth=2))
        tiny_models.stock_sample(patched)
        assert pack_nodes.report(patched)["notes"] == notes
