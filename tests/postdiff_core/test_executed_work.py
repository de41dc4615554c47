"""What a run executes, counted by torch as it happens, is what cost.py counts from the plan."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import pack_nodes
import sampler_nodes
import tiny_models
from compare import inputs_with_prompts
from postdiff.postdiff_core import cost, schedule
from reference import Techniques

PAPER = Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, depth=2, cross_attn_start=0.75, cutoff_start=0.75)
PIXART = replace(PAPER, interval=1)
LCM = Techniques(low_res_scale=0.5, low_res_until=0.5, cross_attn_start=0.5)
LCM_SAMPLING = {"sampler_name": "lcm", "cfg": 1.0}
CASES = {
    "SD1.5": (tiny_models.sd15, PAPER, {}),
    "SD2": (tiny_models.sd2, PAPER, {}),
    "SDXL": (tiny_models.sdxl, replace(PAPER, low_res_scale=0.75, low_res_until=0.2, depth=3), {}),
    "PixArt-alpha": (tiny_models.pixart_alpha, PIXART, {}),
    "PixArt-sigma": (tiny_models.pixart_sigma, PIXART, {}),
    "LCM": (tiny_models.lcm, LCM, LCM_SAMPLING),
    "mixed resolution": (tiny_models.sd15, Techniques(low_res_scale=0.5, low_res_until=0.5), {}),
    "deep cache": (tiny_models.sd15, Techniques(interval=3, depth=4, deep_start=0.3), {}),
    "cross-attention": (tiny_models.sd15, Techniques(cross_attn_start=0.5), {}),
    "cross-attention from the first step on": (tiny_models.sd15, Techniques(cross_attn_start=0.0), {}),
    "cross-attention across the switch": (
        tiny_models.sd15,
        Techniques(low_res_scale=0.5, low_res_until=0.5, interval=2, depth=3, cross_attn_start=0.3),
        {},
    ),
    "cut-off": (tiny_models.sd15, Techniques(cutoff_start=0.5), {}),
    "cut-off from the first step on": (tiny_models.sd15, Techniques(cutoff_start=0.0), {}),
    "nothing": (tiny_models.sd15, Techniques(low_res_scale=0.5, low_res_until=0.0), {}),
}


def attention_on_cpu(query, key, value, *_rest, out_shape=None, **_more):
    return sdpa_flop_count(query, key, value)


def executed(inputs):
    """Multiply-accumulates of convolutions, linear layers and attention products, by call of the diffusion model."""
    network = inputs["model"].model.diffusion_model
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_on_cpu}
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    calls = []

    def end_call(*_):
        counter.__exit__(None, None, None)
        calls.append(counter.get_total_flops() // 2)

    hooks = [
        network.register_forward_pre_hook(lambda *_: (counter.__enter__(), None)[1]),
        network.register_forward_hook(end_call),
    ]
    tiny_models.stock_sample(**inputs)
    for hook in hooks:
        hook.remove()
    return calls


def patched_inputs(name, **given):
    build, techniques, sampling = CASES[name]
    inputs = inputs_with_prompts(build(), scheduler="simple", steps=8, **sampling, **given)
    return inputs | {"model": pack_nodes.patched(inputs["model"], techniques)}, inputs


@pytest.mark.parametrize("name", CASES)
def test_each_step_executes_what_the_report_counts(name):
    patched, stock = patched_inputs(name)
    calls = executed(patched)
    report = pack_nodes.report(patched["model"])
    totals = report["totals"]
    assert calls == pytest.approx([step["macs"] for step in report["steps"]], rel=0.01)
    assert sum(calls) == pytest.approx(totals["macs"], rel=0.01)
    stock_work = sum(executed(stock))
    assert stock_work == pytest.approx(totals["macs_stock"], rel=0.01)
    assert 1 - sum(calls) / stock_work == pytest.approx(totals["work_saved"], abs=0.01)


@pytest.mark.parametrize("negative_tokens", [7, 14])
def test_batches_and_padded_prompts_are_counted(negative_tokens):
    patched, _ = patched_inputs("SD1.5", batch=2, negative_tokens=negative_tokens)
    calls = executed(patched)
    assert sum(calls) == pytest.approx(pack_nodes.report(patched["model"])["totals"]["macs"], rel=0.01)


BOTH_AT_ONCE = {}, {}, {}
TAKING_TURNS = {"start_percent": 0.0, "end_percent": 0.4}, {"start_percent": 0.4, "end_percent": 1.0}, {}
ONE_ENDS = {"start_percent": 0.0, "end_percent": 0.4}, {}, {}
NEGATIVE_ENDS = {}, {}, {"start_percent": 0.0, "end_percent": 0.4}
ONE_HAS_AN_AREA = {}, {"area": (16, 16, 0, 0)}, {}  # the whole picture: the host runs it for the negative prompt too


CUT_OFFS = Techniques(cutoff_start=0.5), Techniques(cutoff_start=0.0), PAPER


@pytest.mark.parametrize(
    ("techniques", "ranges"),
    list(itertools.product(CUT_OFFS, (BOTH_AT_ONCE, TAKING_TURNS, ONE_ENDS, NEGATIVE_ENDS, ONE_HAS_AN_AREA))),
)
def test_combined_prompts_take_a_row_for_each_that_runs(techniques, ranges):
    inputs = tiny_models.sampler_inputs(tiny_models.sd15(), scheduler="simple", steps=8)
    model = inputs["model"]
    inputs["positive"] = [
        *tiny_models.conditioning(model, seed=1, **ranges[0]),
        *tiny_models.conditioning(model, seed=3, **ranges[1]),
    ]
    inputs["negative"] = tiny_models.conditioning(model, seed=2, **ranges[2])
    stock = sum(executed(inputs))
    inputs["model"] = pack_nodes.patched(inputs["model"], techniques)
    totals = sum(executed(inputs)), pack_nodes.report(inputs["model"])["totals"]
    assert totals[0] == pytest.approx(totals[1]["macs"], rel=0.01)
    assert stock == pytest.approx(totals[1]["macs_stock"], rel=0.01)


@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.pixart_sigma])
def test_prompts_evaluated_in_calls_of_their_own_are_counted(build):
    techniques = replace(PIXART, interval=1)
    inputs = inputs_with_prompts(build(), negative_tokens=5)
    inputs["model"] = pack_nodes.patched(inputs["model"], techniques)
    calls = executed(inputs)
    assert sum(calls) == pytest.approx(pack_nodes.report(inputs["model"])["totals"]["macs"], rel=0.01)


@pytest.mark.parametrize("name", ["SD1.5", "SDXL", "PixArt-alpha", "LCM"])
def test_a_run_executes_what_a_plan_counts_before_it_runs(name):
    build, techniques, sampling = CASES[name]
    model = build()
    side = 68 if tiny_models.is_transformer(model) else 32
    latent = tiny_models.latent(model, side, side)
    inputs = inputs_with_prompts(model, scheduler="simple", steps=8, latent_image=latent, **sampling)
    deep = schedule.DeepCache(techniques.interval, techniques.depth) if techniques.interval > 1 else None
    settings = schedule.Settings(
        schedule.MixedResolution(techniques.low_res_scale, techniques.low_res_until),
        deep,
        schedule.CrossAttnCache(techniques.cross_attn_start),
        schedule.CFGCutoff(techniques.cutoff_start),
    )
    plan = schedule.plan(settings, 8, lambda fraction: schedule.step_at_uniform_timesteps(8, fraction))
    low = int(side * techniques.low_res_scale)
    counted = cost.plan_work(
        model.model,
        plan,
        (side, side),
        (low, low),
        tokens=7,
        rows=cost.planned_rows(plan, 1 if sampling else 2),
        depth=deep.depth if deep else None,
    )
    calls = executed(inputs | {"model": pack_nodes.patched(model, techniques)})
    assert calls == pytest.approx([work.total for work in counted.steps], rel=0.01)


def test_a_guider_that_calls_the_model_for_each_prompt_is_counted():
    inputs = tiny_models.sampler_inputs(tiny_models.small_unet(), scheduler="simple", steps=8)
    inputs["model"] = pack_nodes.patched(inputs["model"], Techniques(cutoff_start=0.5))
    sampler_nodes.with_dual_model_guider(inputs)
    assert pack_nodes.report(inputs["model"])["totals"]["work_saved"] == pytest.approx(4 / 16)
