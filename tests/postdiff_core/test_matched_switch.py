"""The switch `matched`: stage 2 at the noise levels that hide at full size what stage 1's hid at low size."""

import comfy.samplers
import comfy.utils
import nodes
import pytest
import torch

import stock_mixed_resolution as by_hand
import tiny_models
from postdiff.postdiff_core import patch
from postdiff.postdiff_core.mixed_resolution import matched_sigmas
from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings


def two_stock_runs(inputs, low, switch, sigmas_after):
    """A stock run at `low` sides, its prediction enlarged, and a stock run from there at levels of its own."""
    model, seed, sigmas = inputs["model"], inputs["seed"], by_hand.sigmas_of(inputs)
    picture = inputs["latent_image"]["samples"]
    predicted = []

    def run(latent, seed, sigmas, callback=None):
        guider = by_hand.cfg_guider(model, inputs["positive"], inputs["negative"], inputs["cfg"])
        sampler = comfy.samplers.sampler_object(inputs["sampler_name"])
        noise = comfy.sample.prepare_noise(latent, seed)
        return guider.sample(noise, latent, sampler, sigmas, callback=callback, disable_pbar=True, seed=seed)

    small = picture.new_zeros(*picture.shape[:2], *low)
    run(small, seed, sigmas[: switch + 1].clone(), lambda step, x0, x, total: predicted.append(x0))
    x0 = model.model.process_latent_out(predicted[-1])
    start = comfy.utils.common_upscale(x0, picture.shape[-1], picture.shape[-2], "bilinear", "disabled")
    return run(start, seed + 1, sigmas_after(sigmas[switch:].clone()))


def sample(inputs, technique, observer=None):
    return tiny_models.stock_sample(**{**inputs, "model": patch.add(inputs["model"], technique, observer)})


def flow(ratio):
    return lambda t: ratio * t / (1 + (ratio - 1) * t)


@pytest.mark.parametrize(
    ("build", "size", "low", "sigmas_after"),
    [
        (tiny_models.sd15, (16, 16), (8, 8), lambda sigmas: 2 * sigmas),
        (tiny_models.sdxl, (16, 16), (8, 8), lambda sigmas: 2 * sigmas),
        (tiny_models.auraflow, (16, 16), (8, 8), flow(2)),
        (tiny_models.auraflow, (16, 20), (8, 10), flow(2)),
    ],
)
@pytest.mark.parametrize("sampler_name", ["euler", "dpmpp_2m", "heun"])
def test_it_is_two_stock_runs_with_matched_levels(build, size, low, sigmas_after, sampler_name):
    model = build()
    latent = tiny_models.latent(model, *size, batch=2)
    inputs = tiny_models.sampler_inputs(model, scheduler="simple", sampler_name=sampler_name, latent_image=latent)
    expected = two_stock_runs(inputs, low, 3, sigmas_after)
    assert torch.equal(sample(inputs, MixedResolution(0.5, 0.5, switch="matched")), expected)
    assert not torch.equal(sample(inputs, MixedResolution(0.5, 0.5)), expected)


def test_paper_is_the_default_and_keeps_the_schedules_levels():
    inputs = tiny_models.sampler_inputs(tiny_models.sd15(), scheduler="simple")
    expected = two_stock_runs(inputs, (8, 8), 3, lambda sigmas: sigmas)
    for technique in (MixedResolution(0.5, 0.5), MixedResolution(0.5, 0.5, switch="paper")):
        assert torch.equal(sample(inputs, technique), expected)


def test_levels_never_pass_the_models_own_and_still_descend():
    model_sampling = tiny_models.sd15().get_model_object("model_sampling")
    most = float(model_sampling.sigma_max)
    matched = matched_sigmas(torch.tensor([most / 1.5, 3.0, 0.1, 0.0]), 4.0, model_sampling)
    assert matched.tolist() == pytest.approx([most, 4.5, 0.15, 0.0])


class Steps:
    def __init__(self):
        self.seen = []

    def on_plan(self, plan, notes): ...

    def on_report(self, report): ...

    def on_step(self, index):
        self.seen.append(index)


@pytest.mark.parametrize("until", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpmpp_sde"])
def test_every_step_is_known_by_its_number(sampler_name, until):
    """The levels rise at the switch, so that a level alone no longer says which step it belongs to."""
    inputs = tiny_models.sampler_inputs(tiny_models.sd15(), scheduler="simple", sampler_name=sampler_name, steps=8)
    orders = []
    for switch in ("paper", "matched"):
        steps = Steps()
        sample(inputs, MixedResolution(0.5, until, switch=switch), steps)
        orders.append(steps.seen)
    assert orders[0] == orders[1]
    assert list(dict.fromkeys(orders[1])) == list(range(8))


def test_the_other_techniques_do_the_same_steps_under_it():
    def plan_and_work(switch):
        settings = Settings(MixedResolution(0.5, 0.5, switch=switch), DeepCache(), CrossAttnCache(), CFGCutoff())
        inputs = tiny_models.sampler_inputs(tiny_models.sd15(), scheduler="simple", steps=8)
        patched = patch.fill(inputs["model"], settings)
        tiny_models.stock_sample(**{**inputs, "model": patched})
        report = patch.carried_by(patched).last_report
        return report["plan"], report["totals"]["macs"]

    assert plan_and_work("matched") == plan_and_work("paper")


def test_a_run_that_ends_before_its_noise_is_gone_leaves_as_much_as_the_next_sampler_expects():
    inputs = tiny_models.sampler_inputs(tiny_models.sd15(), scheduler="simple", steps=8)
    stock = inputs.pop("model")

    def first_part(switch):
        model = patch.add(stock, MixedResolution(0.5, 0.25, switch=switch))
        latent = nodes.common_ksampler(model, **inputs_of_common(inputs), last_step=6)[0]["samples"]
        return latent, patch.carried_by(model).last_report["notes"]

    matched, notes = first_part("matched")
    paper, no_notes = first_part("paper")
    assert torch.equal(matched, paper)
    assert no_notes == [] and "ends before its noise is gone" in notes[0]


def inputs_of_common(inputs):
    """A KSampler's inputs under the names that the host's own function has for them."""
    renamed = {"sampler_name": inputs["sampler_name"], "latent": inputs["latent_image"]}
    return renamed | {name: inputs[name] for name in ("seed", "steps", "cfg", "scheduler", "positive", "negative")}
