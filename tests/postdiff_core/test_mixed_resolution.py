"""Section 2.2, mixed resolution: the same as two stock runs with an enlarged prediction in between.

Under the scheduler `simple`, step i of T begins at fraction i/T of the run; `switch` is counted by hand from that.
"""

import itertools
import re
from types import SimpleNamespace

import comfy.k_diffusion.sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import nodes as comfy_nodes
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustom,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

import pack_nodes
import stock_mixed_resolution as by_hand
import tiny_models
from compare import largest_difference
from postdiff.postdiff_core.architecture import LatentGeometry, latent_geometry
from reference import Techniques

HALF = Techniques(low_res_scale=0.5, low_res_until=0.5)


def inputs_for(model, **given):
    return tiny_models.sampler_inputs(model, **({"scheduler": "simple"} | given))


def assert_same(inputs, expected, techniques=HALF):
    latent = pack_nodes.sample(techniques, inputs=inputs)
    assert torch.equal(latent, expected)
    assert not torch.equal(latent, tiny_models.stock_sample(**inputs))


def sample_steps(inputs, last):
    """The first steps of a stock run; all of them if `last` is None."""
    given = {name: inputs[name] for name in inputs.keys() - {"seed", "denoise"}}
    comfy_nodes.KSamplerAdvanced().sample(
        **given,
        add_noise="enable",
        noise_seed=1,
        start_at_step=0,
        end_at_step=10000 if last is None else last,
        return_with_leftover_noise="enable",
    )


def ramp(*shape):
    """A soft mask: from 0 on the left to 1 on the right."""
    return torch.linspace(0, 1, shape[-1]).expand(shape).clone()


@pytest.mark.parametrize(
    ("build", "size", "low"),
    [
        (tiny_models.sd15, (16, 16), (8, 8)),
        (tiny_models.sd2, (16, 24), (8, 12)),
        (tiny_models.sdxl, (12, 20), (6, 10)),
        (tiny_models.pixart_alpha, (68, 68), (34, 34)),
        (tiny_models.pixart_sigma, (64, 72), (32, 36)),
        (tiny_models.auraflow, (16, 20), (8, 10)),
    ],
)
def test_text_to_image_is_two_stock_runs(build, size, low):
    model = build()
    inputs = inputs_for(model, latent_image=tiny_models.latent(model, *size, batch=2))
    assert_same(inputs, by_hand.sample(inputs, low=low, switch=3))


@pytest.mark.parametrize("sampler_name", ["euler_ancestral", "dpmpp_2m", "dpmpp_sde", "heun", "ddim", "lcm"])
def test_samplers_with_history_noise_or_several_evaluations_are_two_stock_runs(sampler_name):
    inputs = inputs_for(tiny_models.sd15(), sampler_name=sampler_name)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3))


@pytest.mark.parametrize("sampler_name", ["uni_pc", "dpm_2"])
def test_samplers_that_drop_a_sigma_are_two_stock_runs(sampler_name):
    """They take 6 of the first 7 steps of a run: 0.5 of it is reached in step 4."""
    inputs = inputs_for(tiny_models.sd15(), sampler_name=sampler_name)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=4))


@pytest.mark.parametrize("upscale_method", ["bilinear", "nearest-exact", "bicubic", "area", "bislerp"])
def test_every_upscale_method_is_the_hosts(upscale_method):
    inputs = inputs_for(tiny_models.sd15())
    techniques = Techniques(low_res_scale=0.5, low_res_until=0.5, upscale_method=upscale_method)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3, upscale_method=upscale_method), techniques)


@pytest.mark.parametrize(("scale", "until", "low", "switch"), [(0.75, 0.2, (48, 36), 2), (0.25, 0.9, (16, 12), 5)])
def test_scale_and_fraction_decide_size_and_switch(scale, until, low, switch):
    """64 x 48 in units of 4; 0.2 of 7 steps are 2; 0.9 of 7 steps are 7, of which two remain at full size."""
    model = tiny_models.sd15()
    inputs = inputs_for(model, steps=7, latent_image=tiny_models.latent(model, 64, 48))
    expected = by_hand.sample(inputs, low=low, switch=switch)
    assert_same(inputs, expected, Techniques(low_res_scale=scale, low_res_until=until))


def test_a_seed_at_the_top_of_its_range_wraps_to_0(monkeypatch):
    seeds = []
    prepare_noise = comfy.sample.prepare_noise

    def recording(latent, seed, *batch_index):
        seeds.append(seed)
        return prepare_noise(latent, seed, *batch_index)

    monkeypatch.setattr(comfy.sample, "prepare_noise", recording)
    pack_nodes.sample(HALF, inputs=inputs_for(tiny_models.sd15(), seed=2**64 - 1, steps=4))
    assert seeds[-1] == 0 and set(seeds) == {0, 2**64 - 1}


@pytest.mark.parametrize(("until", "switch"), [(0.5, 1), (0.7, 3)])
def test_image_to_image_counts_fractions_on_the_whole_schedule(until, switch):
    """6 steps at denoise 0.6 are the last 6 of 10: 0.5 is reached after 1 of them, 0.7 after 3."""
    model = tiny_models.sd15()
    inputs = inputs_for(model, denoise=0.6, latent_image=tiny_models.latent(model, seed=3))
    expected = by_hand.sample(inputs, low=(8, 8), switch=switch)
    assert_same(inputs, expected, Techniques(low_res_scale=0.5, low_res_until=until))


@pytest.mark.parametrize(
    ("patch_size", "geometry"),
    [(2, LatentGeometry(2)), ((1, 2, 2), LatentGeometry(2)), ((16, 1), None), (None, None)],
    ids=["square", "square in every frame", "of frequency and time", "none"],
)
def test_only_a_picture_has_a_low_resolution(patch_size, geometry):
    assert latent_geometry(SimpleNamespace(patch_size=patch_size)) == geometry


def test_image_to_image_that_starts_past_the_fraction_is_stock():
    model = tiny_models.sd15()
    inputs = inputs_for(model, denoise=0.4, latent_image=tiny_models.latent(model, seed=3))
    assert torch.equal(pack_nodes.sample(HALF, inputs=inputs), tiny_models.stock_sample(**inputs))


@pytest.mark.parametrize("batch_index", [[3, 5], [4, 4]])
def test_batch_index_chooses_the_noise_of_both_stages(batch_index):
    model = tiny_models.sd15()
    latent = tiny_models.latent(model, batch=2) | {"batch_index": batch_index}
    inputs = inputs_for(model, latent_image=latent)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3, batch_index=batch_index))


def test_a_picture_of_a_batch_is_the_same_alone():
    model = tiny_models.sd15()
    whole = pack_nodes.sample(HALF, inputs=inputs_for(model, latent_image=tiny_models.latent(model, batch=3)))
    alone = tiny_models.latent(model) | {"batch_index": [2]}
    latent = pack_nodes.sample(HALF, inputs=inputs_for(model, latent_image=alone))
    assert torch.allclose(latent, whole[2:], rtol=1e-5, atol=1e-5 * whole.abs().max().item())


@pytest.mark.parametrize("mask", ["hard", "soft"])
@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_inpainting_composites_at_the_switch(mask, denoise):
    model = tiny_models.sd15()
    noise_mask = ramp(1, 1, 16, 16)
    if mask == "hard":
        noise_mask = noise_mask.round()
    latent = tiny_models.latent(model, seed=3) | {"noise_mask": noise_mask}
    inputs = inputs_for(model, denoise=denoise, latent_image=latent)
    expected = by_hand.sample(inputs, low=(8, 8), switch=3 if denoise == 1 else 1)
    assert_same(inputs, expected)
    kept = noise_mask.expand(1, 4, 16, 16) == 0
    assert torch.allclose(expected[kept], latent["samples"][kept], atol=1e-5)


@pytest.mark.parametrize("mask", [0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize("strength", [None, 0.5, 1.0])
def test_a_soft_mask_keeps_as_much_of_the_picture_as_in_a_stock_run(mask, strength):
    """Also where differential diffusion, by its strength, leaves it soft."""
    model = tiny_models.sd15()
    if strength is not None:
        model = DifferentialDiffusion.execute(model, strength).args[0]

    def predict_nothing(executor, network, conds, x, timestep, options):
        return [torch.zeros_like(x) for _ in conds]

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "test", predict_nothing)
    latent = {"samples": torch.ones(1, 4, 16, 16), "noise_mask": torch.full((1, 1, 16, 16), mask)}
    patched = pack_nodes.with_mixed_resolution(model, HALF)
    stock, kept = (tiny_models.stock_sample(each, latent_image=latent) for each in (model, patched))
    assert torch.allclose(kept, stock, atol=1e-5)
    if strength is None:
        assert torch.allclose(stock, torch.full_like(stock, 1 - mask), atol=1e-5)


@pytest.mark.parametrize("build", [tiny_models.small_unet, tiny_models.auraflow])
def test_under_a_soft_mask_the_predictions_shown_lead_to_the_latent(build):
    """SamplerCustomAdvanced's denoised output is the last of them; previews are the others."""
    model = build()
    latent = tiny_models.latent(model, seed=3) | {"noise_mask": ramp(1, 1, 16, 16)}
    inputs = inputs_for(model, latent_image=latent)
    patched = pack_nodes.with_mixed_resolution(model, HALF)
    guider = by_hand.cfg_guider(patched, inputs["positive"], inputs["negative"], 5.0)
    given = KSamplerSelect.execute("euler").args[0], by_hand.sigmas_of(inputs), latent
    output, denoised = SamplerCustomAdvanced.execute(RandomNoise.execute(7).args[0], guider, *given).args
    assert torch.allclose(output["samples"], denoised["samples"], atol=1e-5)


def test_inpainting_masks_come_in_pixels():
    model = tiny_models.sd15()
    latent = tiny_models.latent(model, batch=2, seed=3) | {"noise_mask": ramp(1, 1, 128, 128).round()}
    inputs = inputs_for(model, latent_image=latent)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3))


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_differential_diffusion_keeps_its_schedule_over_both_stages(strength):
    model = DifferentialDiffusion.execute(tiny_models.sd15(), strength).args[0]
    latent = tiny_models.latent(model, seed=3) | {"noise_mask": ramp(1, 1, 16, 16)}
    inputs = inputs_for(model, latent_image=latent)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3))


@pytest.mark.parametrize("level", [0.2, 0.45, 0.7])
def test_differential_diffusion_is_active_in_the_same_steps_as_stock(level):
    model = DifferentialDiffusion.execute(tiny_models.sd15()).args[0]
    differential = model.model_options["denoise_mask_function"]
    active = []

    def recording(sigma, mask, extra_options):
        mask = differential(sigma, mask, extra_options=extra_options)
        active.append((sigma[0].item(), mask.max().item()))
        return mask

    model.set_model_denoise_mask_function(recording)
    latent = tiny_models.latent(model, seed=3) | {"noise_mask": torch.full((1, 1, 16, 16), level)}
    inputs = inputs_for(model, steps=10, latent_image=latent)
    tiny_models.stock_sample(**inputs)
    stock, active[:] = list(active), []
    pack_nodes.sample(HALF, inputs=inputs)
    assert list(dict.fromkeys(active)) == stock
    assert {mask for _, mask in stock} == {0.0, 1.0}


def test_an_inpainting_checkpoint_gets_its_picture_and_mask_at_both_sizes():
    model = tiny_models.sd15_inpainting()
    picture = tiny_models.latent(model, seed=3)["samples"]
    mask = ramp(1, 1, 128, 128).round()
    given = {"concat_latent_image": picture * 0.5, "concat_mask": mask}
    inputs = inputs_for(
        model,
        positive=tiny_models.conditioning(model, seed=1, **given),
        negative=tiny_models.conditioning(model, seed=2, **given),
        latent_image={"samples": picture, "noise_mask": mask},
    )
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3))


def test_an_inpainting_checkpoint_that_is_told_no_picture_sees_the_given_latent_in_both_stages():
    """As after VAEEncodeForInpaint. Stage 2 begins with the enlarged x0, which no such model was trained to see."""
    model = tiny_models.sd15_inpainting()
    latent = tiny_models.latent(model, seed=3) | {"noise_mask": ramp(1, 1, 128, 128).round()}
    inputs = inputs_for(model, latent_image=latent)

    def guider_for(model, stage):
        given = {"concat_latent_image": latent["samples"]} if stage == "full" else {}
        positive, negative = (tiny_models.conditioning(model, seed=seed, **given) for seed in (1, 2))
        return by_hand.cfg_guider(model, positive, negative, inputs["cfg"])

    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3, guider_for=guider_for))


def test_absolute_areas_are_scaled_for_the_low_resolution():
    model = tiny_models.sd15()

    def positive(area):
        return tiny_models.conditioning(model, seed=1) + tiny_models.conditioning(
            model, seed=4, area=area, strength=2.0
        )

    inputs = inputs_for(model, positive=positive((8, 12, 4, 2)))

    def guider_for(model, stage):
        area = (8, 12, 4, 2) if stage == "full" else (4, 6, 2, 1)
        return by_hand.cfg_guider(model, positive(area), inputs["negative"], inputs["cfg"])

    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3, guider_for=guider_for))


def test_an_area_at_the_border_stays_inside_the_low_resolution():
    model = tiny_models.sd15()
    corner = tiny_models.conditioning(model, seed=4, area=(3, 3, 13, 13), strength=2.0)
    inputs = inputs_for(model, positive=tiny_models.conditioning(model, seed=1) + corner)
    latent = pack_nodes.sample(HALF, inputs=inputs)
    assert torch.isfinite(latent).all()
    inputs["positive"] = inputs["positive"][:1]
    assert not torch.equal(latent, pack_nodes.sample(HALF, inputs=inputs))


@pytest.mark.parametrize(
    "region",
    [
        {"area": ("percentage", 0.5, 0.75, 0.25, 0.0), "strength": 2.0},
        {"mask": ramp(1, 16, 16), "mask_strength": 0.8},
        {"mask": ramp(1, 16, 16).round(), "set_area_to_bounds": True},
    ],
    ids=["percentage area", "mask", "mask bounds"],
)
def test_regions_that_scale_themselves_are_left_to_the_host(region):
    model = tiny_models.sd15()
    positive = tiny_models.conditioning(model, seed=1) + tiny_models.conditioning(model, seed=4, **region)
    inputs = inputs_for(model, positive=positive)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3))


@pytest.mark.parametrize("region", [{"area": (52, 44, 0, 0)}, {"area": ("percentage", 0.6, 0.4, 0.0, 0.0)}])
def test_pixart_with_areas_runs_at_full_size_and_says_so(region):
    """Its patches of two and smallest size of 33 fit few areas of a smaller latent."""
    model = tiny_models.pixart_alpha()
    positive = tiny_models.conditioning(model, seed=1) + tiny_models.conditioning(model, seed=4, strength=1.0, **region)
    inputs = inputs_for(model, positive=positive, latent_image=tiny_models.latent(model, 96, 96), steps=3)
    patched = pack_nodes.patched(model, HALF)
    assert torch.equal(tiny_models.stock_sample(**inputs | {"model": patched}), tiny_models.stock_sample(**inputs))
    assert "PixArtMS takes few sizes" in " ".join(pack_nodes.report(patched)["notes"])


def keeping_a_hint(model: ModelPatcher) -> ModelPatcher:
    """With a node's patch that fails where the latent is not as large as the picture it was made for."""
    kept, hint = model.clone(), torch.full((1, 1, 16, 1), 0.1)
    kept.set_model_input_block_patch(lambda h, options: h + hint if options["block"] == ("input", 1) else h)
    return kept


@pytest.mark.parametrize("sampler_name", ["euler", "dpm_2_ancestral", "dpmpp_sde"])
def test_where_another_node_fails_at_low_resolution_all_runs_at_full_size_and_the_notes_say_why(sampler_name):
    model = keeping_a_hint(tiny_models.small_unet())
    area = tiny_models.conditioning(model, seed=4, area=(16, 8, 0, 4), strength=2.0)
    inputs = inputs_for(model, sampler_name=sampler_name, positive=tiny_models.conditioning(model, seed=1) + area)
    others = {"interval": 2, "cutoff_start": 0.75}
    expected = tiny_models.stock_sample(**inputs | {"model": pack_nodes.patched(model, Techniques(**others))})
    patched = pack_nodes.patched(model, Techniques(low_res_scale=0.5, low_res_until=0.5, **others))
    for _ in range(2):
        assert torch.equal(tiny_models.stock_sample(**inputs | {"model": patched}), expected)
        report = pack_nodes.report(patched)
        assert {step["stage"] for step in report["plan"]} == {"full"} and report["low_size"] is None
        assert re.search(r"All steps run at full size: .*begins at 8x8.*must match the size", " ".join(report["notes"]))


def test_an_error_that_is_no_matter_of_size_is_the_hosts_own():
    """Such as a prompt encoded for another model."""
    model = tiny_models.small_unet()
    inputs = inputs_for(model, positive=[[torch.zeros(1, 7, 5), {}]])
    said = []
    for each in (model, pack_nodes.with_mixed_resolution(model, HALF)):
        with pytest.raises(RuntimeError) as error:
            tiny_models.stock_sample(**inputs | {"model": each})
        said.append(str(error.value))
    assert said[0] == said[1] and "low_res_scale" not in said[1]


def test_a_node_that_fails_late_and_speaks_of_no_size_is_not_run_again():
    steps = []

    def fail_late(step, denoised, x, total):
        steps.append(step)
        if step == 4:
            raise ValueError("as the test asked")

    inputs = inputs_for(tiny_models.small_unet())
    sampler = comfy.samplers.KSampler(pack_nodes.patched(inputs["model"], HALF), 6, "cpu", "euler", "simple")
    given = {"latent_image": torch.zeros(1, 4, 16, 16), "seed": 1, "callback": fail_late}
    with pytest.raises(ValueError, match=r"^as the test asked$"):
        sampler.sample(torch.ones(1, 4, 16, 16), inputs["positive"], inputs["negative"], 7.0, **given)
    assert steps == [0, 1, 2, 3, 4]


def test_a_node_that_divides_by_the_steps_after_the_first_makes_a_low_stage_of_one_step_start_again():
    """As DiffusionCG of vectorscope-cc does, in a callback."""
    model = tiny_models.small_unet()
    inputs = inputs_for(model, steps=5)

    def divide(executor, model_wrap, sigmas, extra_args, callback, *args, **options):
        def done(step, x0, x, total):
            assert step / (total - 1) >= 0
            callback(step, x0, x, total)

        return executor(model_wrap, sigmas, extra_args, done, *args, **options)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "divides", divide)
    patched = pack_nodes.patched(model, Techniques(low_res_scale=0.5, low_res_until=0.2))
    assert torch.equal(
        tiny_models.stock_sample(**inputs | {"model": patched}), tiny_models.stock_sample(**inputs | {"model": model})
    )
    assert "ZeroDivisionError" in " ".join(pack_nodes.report(patched)["notes"])


def test_after_a_node_failed_at_low_resolution_the_global_generator_draws_what_it_does_in_a_stock_run():
    """From which euler takes its churn."""
    model = keeping_a_hint(tiny_models.small_unet())
    inputs = inputs_for(model)

    def sample(model):
        given = {name: inputs[name] for name in ("cfg", "positive", "negative", "latent_image")}
        sampler, sigmas = comfy.samplers.ksampler("euler", {"s_churn": 5.0}), by_hand.sigmas_of(inputs)
        return SamplerCustom.execute(model, add_noise=True, noise_seed=3, sampler=sampler, sigmas=sigmas, **given).args[
            0
        ]["samples"]

    assert torch.equal(sample(pack_nodes.patched(model, HALF)), sample(model))


def test_what_fails_at_full_size_too_says_how_to_run_without_a_change_of_size():
    """Such as a node that gathers what the model is given, which after the first attempt is of two sizes."""
    gathered = []

    def gather(executor, x, *others, **options):
        gathered.append(x)
        torch.cat(gathered)
        return executor(x, *others, **options)

    inputs = inputs_for(tiny_models.small_unet())
    model = pack_nodes.patched(inputs["model"], HALF)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "gathers", gather)
    with pytest.raises(RuntimeError, match=r"must match(.|\n)*begins at 8x8(.|\n)*low_res_scale 1 on the model"):
        tiny_models.stock_sample(**inputs | {"model": model})


@pytest.fixture
def with_momentum():
    """A model with ComfyUI's APG, whose momentum is kept from step to step and from run to run."""
    return fresh_apg()


def fresh_apg():
    return APG.execute(tiny_models.small_unet(), 1.0, 5.0, -0.5).args[0]


@pytest.mark.parametrize("before", ["nothing", "a run", "the first steps of a run", "the first steps of a larger run"])
def test_the_momentum_of_apg_begins_anew_in_each_stage_whatever_ran_before(with_momentum, before):
    inputs = inputs_for(with_momentum)

    def guider_for(_model, _stage):
        return by_hand.cfg_guider(fresh_apg(), inputs["positive"], inputs["negative"], inputs["cfg"])

    expected = by_hand.sample(inputs, low=(8, 8), switch=3, guider_for=guider_for)
    side = 24 if "larger" in before else 16
    if before != "nothing":
        last = None if before == "a run" else 2
        latent = tiny_models.latent(with_momentum, side, side)
        sample_steps(inputs | {"latent_image": latent}, last)
    assert torch.equal(pack_nodes.sample(HALF, inputs=inputs), expected)


def running_mean(seen):
    """A node's function that mixes each prediction with what it remembers of those before."""
    mean = None

    def mix(args):
        nonlocal mean
        now = args["denoised"]
        mean = now if mean is None else 0.5 * mean + 0.5 * now
        seen.append(float(mean.abs().mean() / now.abs().mean()))
        return mean

    return mix


def cached_mask(seen):
    """A node's function that keeps its mask at the size of the predictions."""
    mask, resized = torch.ones(1, 1, 16, 16), None

    def weigh(args):
        nonlocal resized
        now = args["denoised"]
        if resized is None or resized.shape[-2:] != now.shape[-2:]:
            resized = torch.nn.functional.interpolate(mask, now.shape[-2:])
        seen.append(float(resized.mean()))
        return now * resized

    return weigh


@pytest.mark.parametrize("function", [running_mean, cached_mask])
def test_what_other_guidance_functions_remember_is_as_before_the_run_when_stage_2_begins(function):
    seen = []
    model = tiny_models.small_unet()
    model.set_model_sampler_post_cfg_function(function(seen))
    pack_nodes.sample(HALF, inputs=inputs_for(model))
    assert seen[0] == seen[3] == 1.0, "the first of each stage"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("MPS backend out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 2097152 bytes."),
        torch.OutOfMemoryError("CUDA"),
    ],
)
def test_running_out_of_memory_at_low_resolution_is_not_tried_again_at_full_size(error):
    model, evaluations = tiny_models.small_unet(), []

    def run_out(_network, given):
        evaluations.append(given[0].shape)
        raise error

    model.model.diffusion_model.register_forward_pre_hook(run_out)
    with pytest.raises(type(error), match=re.escape(str(error))):
        pack_nodes.sample(HALF, inputs=inputs_for(model))
    assert len(evaluations) == 1


@pytest.mark.parametrize("evaluation", [1, 2, 3, 4, 6])
def test_a_run_cancelled_in_either_stage_leaves_apg_ready_for_the_next(with_momentum, evaluation):
    inputs = inputs_for(with_momentum)
    evaluations = itertools.count(1)

    def cancel(_network, _inputs):
        if next(evaluations) == evaluation:
            raise InterruptProcessingException

    hook = with_momentum.model.diffusion_model.register_forward_pre_hook(cancel)
    with pytest.raises(InterruptProcessingException):
        pack_nodes.sample(HALF, inputs=inputs)
    hook.remove()
    again = pack_nodes.sample(HALF, inputs=inputs)
    assert torch.equal(again, pack_nodes.sample(HALF, inputs=inputs_for(fresh_apg())))
    latent = tiny_models.latent(with_momentum, seed=3)
    assert torch.isfinite(tiny_models.stock_sample(**inputs | {"denoise": 0.3, "latent_image": latent})).all()


def test_sizes_given_to_sdxl_hold_in_both_stages():
    model = tiny_models.sdxl()
    prompts = {
        name: tiny_models.conditioning(model, seed=seed, width=1024, height=768, crop_w=8, target_width=512)
        for name, seed in (("positive", 1), ("negative", 2))
    }
    inputs = inputs_for(model, **prompts)
    assert_same(inputs, by_hand.sample(inputs, low=(8, 8), switch=3))


def test_prompts_and_latent_given_to_the_node_stay_as_they_were():
    model = tiny_models.sd15()
    area = tiny_models.conditioning(model, seed=4, area=(8, 8, 4, 4), strength=1.0)
    latent = tiny_models.latent(model, seed=3) | {"noise_mask": ramp(1, 1, 16, 16)}
    inputs = inputs_for(model, positive=area, latent_image=latent)
    before = latent["samples"].clone(), latent["noise_mask"].clone()
    pack_nodes.sample(HALF, inputs=inputs)
    assert area[0][1]["area"] == (8, 8, 4, 4)
    assert torch.equal(latent["samples"], before[0]) and torch.equal(latent["noise_mask"], before[1])
    assert latent.keys() == {"samples", "noise_mask"}


class TestPatch:
    """MixedResolutionPatch under the host's other samplers."""

    @pytest.mark.parametrize(("start", "end", "switch"), [(0, 10000, 5), (2, 8, 3), (0, 7, 5)])
    @pytest.mark.parametrize("leftover_noise", ["enable", "disable"])
    def test_advanced_slices_count_fractions_on_the_whole_schedule(self, start, end, switch, leftover_noise):
        """0.5 of 10 steps is step 5, the third after step 2."""
        model = tiny_models.sd15()
        inputs = inputs_for(model, steps=10, latent_image=tiny_models.latent(model, seed=3))
        sigmas = by_hand.sigmas_of(inputs)[start : end + 1].clone()
        if leftover_noise == "disable":
            sigmas[-1] = 0
        expected = by_hand.sample(inputs, low=(8, 8), switch=switch, sigmas=sigmas)
        arguments = dict(inputs)
        arguments["model"] = pack_nodes.with_mixed_resolution(model, HALF)
        arguments["noise_seed"] = arguments.pop("seed")
        latent = comfy_nodes.KSamplerAdvanced().sample(
            **arguments,
            add_noise="enable",
            start_at_step=start,
            end_at_step=end,
            return_with_leftover_noise=leftover_noise,
        )[0]["samples"]
        assert torch.equal(latent, expected)

    def test_sampler_custom_advanced_with_a_basic_guider(self):
        model = tiny_models.sd15()
        inputs = inputs_for(model)

        def guider_for(model, _stage):
            return BasicGuider.execute(model, inputs["positive"]).args[0]

        expected = by_hand.sample(inputs, low=(8, 8), switch=3, guider_for=guider_for)
        latent, denoised = SamplerCustomAdvanced.execute(
            RandomNoise.execute(inputs["seed"]).args[0],
            guider_for(pack_nodes.with_mixed_resolution(model, HALF), "both"),
            KSamplerSelect.execute("euler").args[0],
            by_hand.sigmas_of(inputs),
            inputs["latent_image"],
        ).args
        assert torch.equal(latent["samples"], expected)
        assert denoised["samples"].shape == expected.shape

    def test_the_stock_sampler_gives_what_the_node_gives(self):
        inputs = inputs_for(tiny_models.sdxl())
        patched = inputs | {"model": pack_nodes.with_mixed_resolution(inputs["model"], HALF)}
        assert torch.equal(tiny_models.stock_sample(**patched), pack_nodes.sample(HALF, inputs=inputs))

    def test_noise_that_is_not_the_seeds_own_is_that_of_both_stages(self):
        """A batch with one noise throughout draws one picture, a chosen place of a batch the picture of that place."""
        model = tiny_models.small_unet()
        patched = pack_nodes.with_mixed_resolution(model, HALF)

        def sample(*batch_index):
            latent = tiny_models.latent(model, batch=len(batch_index)) | {"batch_index": list(batch_index)}
            return tiny_models.stock_sample(patched, latent_image=latent)

        same, places = sample(4, 4), sample(4, 6, 4)
        assert torch.equal(same[0], same[1]) and torch.equal(places[0], places[2])
        assert not torch.equal(places[0], places[1])
        assert largest_difference(sample(6), places[1:2]) < 1e-5
        (note,) = pack_nodes.report(patched)["notes"]
        assert note.startswith("The noise of this run is not what its seed draws") and "nothing to do" in note

    def test_the_last_of_two_holds_and_the_scale_never_multiplies(self):
        inputs = inputs_for(tiny_models.sd15())
        first = pack_nodes.with_mixed_resolution(inputs["model"], Techniques(low_res_scale=0.75, low_res_until=0.9))
        patched = pack_nodes.with_mixed_resolution(first, HALF)
        assert torch.equal(
            tiny_models.stock_sample(**(inputs | {"model": patched})), by_hand.sample(inputs, low=(8, 8), switch=3)
        )
        assert any("twice" in note for note in pack_nodes.report(patched)["notes"])


class TestStockWithANote:
    """What mixed resolution cannot act on runs as if it were not there, and the report says why."""

    def assert_stock_with_a_note(self, model, run):
        patched = pack_nodes.with_mixed_resolution(model, HALF)
        assert torch.equal(run(patched), run(model))
        assert pack_nodes.report(patched)["notes"]
        assert {step["stage"] for step in pack_nodes.report(patched)["plan"]} == {"full"}

    @pytest.mark.parametrize("picture_seed", [3, None])
    def test_input_that_is_not_noised_here(self, picture_seed):
        model = tiny_models.sd15()

        def run(model):
            inputs = inputs_for(model, latent_image=tiny_models.latent(model, seed=picture_seed))
            inputs["noise_seed"] = inputs.pop("seed")
            last = {"start_at_step": 1, "end_at_step": 6, "return_with_leftover_noise": "disable"}
            return comfy_nodes.KSamplerAdvanced().sample(**inputs, add_noise="disable", **last)[0]["samples"]

        self.assert_stock_with_a_note(model, run)

    @pytest.mark.parametrize("name", ["steps_to_run", "start_at_step"])
    def test_a_sampler_that_does_a_part_of_its_steps(self, name):
        """As RES4LYF's do for another that takes over: each stage would do that part of its own steps."""
        model = tiny_models.sd15()
        inputs = inputs_for(model)
        given = {key: inputs[key] for key in ("cfg", "positive", "negative", "latent_image")}

        def euler(*args, steps_to_run=-1, start_at_step=-1, **options):
            return comfy.k_diffusion.sampling.sample_euler(*args, **options)

        sampler = comfy.samplers.KSAMPLER(euler, extra_options={name: 2})

        def run(model):
            sigmas = by_hand.sigmas_of(inputs)
            output = SamplerCustom.execute(model, True, 3, sampler=sampler, sigmas=sigmas, **given)
            return output.args[0]["samples"]

        self.assert_stock_with_a_note(model, run)

    def test_a_run_without_a_seed(self):
        model = tiny_models.sd15()
        inputs = inputs_for(model)

        def run(model):
            guider = by_hand.cfg_guider(model, inputs["positive"], inputs["negative"], 5.0)
            picture = inputs["latent_image"]["samples"]
            noise = comfy.sample.prepare_noise(picture, 7)
            return guider.sample(noise, picture, comfy.samplers.sampler_object("euler"), by_hand.sigmas_of(inputs))

        self.assert_stock_with_a_note(model, run)

    def test_sigmas_that_do_not_descend(self):
        model = tiny_models.sd15()
        inputs = inputs_for(model)

        def run(model):
            guider = by_hand.cfg_guider(model, inputs["positive"], inputs["negative"], 5.0)
            picture = inputs["latent_image"]["samples"]
            noise = comfy.sample.prepare_noise(picture, 7)
            sigmas = torch.tensor([8.0, 2.0, 6.0, 3.0, 1.0, 0.0])
            return guider.sample(noise, picture, comfy.samplers.sampler_object("euler"), sigmas, seed=7)

        self.assert_stock_with_a_note(model, run)

    @pytest.mark.parametrize("steps", [1, 2])
    def test_a_run_that_is_too_short(self, steps):
        self.assert_stock_with_a_note(
            tiny_models.sd15(), lambda model: tiny_models.stock_sample(**inputs_for(model, steps=steps))
        )

    def test_a_latent_with_a_time_axis(self):
        model = tiny_models.sd15()

        def halve(_executor, x, *_rest, **_more):
            return x / 2

        def run(model):
            model = model.clone()
            model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "formula", halve)
            return tiny_models.stock_sample(**inputs_for(model, latent_image={"samples": torch.zeros(1, 4, 3, 16, 16)}))

        self.assert_stock_with_a_note(model, run)


def test_pixart_that_is_too_small_is_run_at_the_smallest_size_and_noted():
    model = tiny_models.pixart_alpha()
    inputs = inputs_for(model, latent_image=tiny_models.latent(model, 64, 64))
    expected = by_hand.sample(inputs, low=(34, 34), switch=3)
    latent, ran = pack_nodes.mixed_resolution_sampler(inputs.pop("model"), HALF, **inputs)
    assert torch.equal(latent["samples"], expected)
    assert pack_nodes.report(ran)["low_size"] == [34, 34]
    assert any("34" in note or "33" in note for note in pack_nodes.report(ran)["notes"])


def test_a_picture_too_small_for_a_lower_resolution_is_stock():
    model = tiny_models.pixart_alpha()
    inputs = inputs_for(model, latent_image=tiny_models.latent(model, 34, 34))
    assert torch.equal(pack_nodes.sample(HALF, inputs=inputs), tiny_models.stock_sample(**inputs))


@pytest.mark.parametrize("sampler_name", ["euler", "dpmpp_2m", "heun", "ipndm"])
def test_progress_counts_every_step_of_both_stages_once(monkeypatch, sampler_name):
    seen = []

    def prepare_callback(_model, _steps, _x0_output=None):
        return lambda step, x0, x, total: seen.append((step, total, x0, x))

    monkeypatch.setattr(comfy_nodes.latent_preview, "prepare_callback", prepare_callback)
    pack_nodes.sample(HALF, inputs=inputs_for(tiny_models.sd15(), sampler_name=sampler_name))
    assert [(step, total) for step, total, *_ in seen] == [(step, 6) for step in range(6)]
    assert all(latent.shape == (1, 4, 16, 16) for _, _, *latents in seen for latent in latents)


def test_steps_at_low_resolution_are_shown_at_full_size_as_they_are():
    """Nodes that gather them, as KSampler Progress does, find one size."""
    inputs, shown, expected = inputs_for(tiny_models.small_unet()), [], []
    by_hand.sample(inputs, low=(8, 8), switch=3, callback=lambda step, x0, x, total: expected.append((x0, x)))
    sampler = comfy.samplers.KSampler(pack_nodes.patched(inputs["model"], HALF), 6, "cpu", "euler", inputs["scheduler"])
    latent = torch.zeros(1, 4, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 7)
    prompts = inputs["positive"], inputs["negative"], inputs["cfg"]
    given = {"latent_image": latent, "seed": 7, "callback": lambda step, x0, x, total: shown.append((x0, x))}
    sampler.sample(noise, *prompts, **given)
    for latents, same in zip(shown, expected, strict=True):
        assert all(map(torch.equal, latents, same))
    x0, _ = shown[0]
    assert torch.equal(x0, x0[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_the_host_is_told_the_size_of_each_stage(monkeypatch):
    told = []
    stock = comfy.samplers.CFGGuider.inner_sample

    def inner_sample(self, noise, *args, latent_shapes=None, **kwargs):
        told.append((tuple(noise.shape), latent_shapes))
        return stock(self, noise, *args, latent_shapes=latent_shapes, **kwargs)

    monkeypatch.setattr(comfy.samplers.CFGGuider, "inner_sample", inner_sample)
    techniques = Techniques(low_res_scale=0.5, low_res_until=0.5)
    pack_nodes.sample(techniques, inputs=tiny_models.sampler_inputs(tiny_models.small_unet()))
    assert [noise[-2:] for noise, _ in told] == [(8, 8), (16, 16)]
    assert all([tuple(shape) for shape in shapes] == [noise] for noise, shapes in told)


def test_a_sampler_that_enlarges_the_latent_runs_at_full_size_and_that_is_said():
    """As gradual latent does, at steps that it counts from where the run begins."""

    def enlarge_after_two_steps(model, x, sigmas, extra_args, callback=None, disable=None):
        for i, sigma in enumerate(sigmas[:-1]):
            if i == 2:
                x = torch.nn.functional.interpolate(x, scale_factor=2.0)
            denoised = model(x, sigma.expand(len(x)), **extra_args)
            callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
            x = denoised + (x - denoised) * sigmas[i + 1] / sigma
        return x

    def sample(model):
        inputs = inputs_for(model, steps=8)
        given = {name: inputs[name] for name in ("model", "cfg", "positive", "negative", "latent_image")}
        sampler, sigmas = comfy.samplers.KSAMPLER(enlarge_after_two_steps), by_hand.sigmas_of(inputs)
        output = SamplerCustom.execute(**given, add_noise=True, noise_seed=7, sampler=sampler, sigmas=sigmas)
        return output.args[0]["samples"]

    model = tiny_models.small_unet()
    patched = pack_nodes.with_mixed_resolution(model, HALF)
    assert torch.equal(sample(patched), sample(model))
    assert "the sampler has changed the latent's size to 16x16" in " ".join(pack_nodes.report(patched)["notes"])
