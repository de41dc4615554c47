"""What packs that change guidance do beside PostDiff and cannot be told as a cell of the matrix."""

from __future__ import annotations

import importlib

import guidance_packs
import nodes
import pytest
import torch

import companions
import pack_nodes
import sampler_nodes
import tiny_models
from companions import Inputs
from composition import COLUMNS, CROSS, CUT, DEEP, MIXED, SAMPLERS, TOGETHER, Row, cell, patched, sampled, stock
from reference import Techniques


def needs(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(kind not in nodes.NODE_CLASS_MAPPINGS, reason=f"--pack did not name the pack of {kind}")


@needs("ClownsharkChainsampler_Beta")
@pytest.mark.parametrize("column", [MIXED, TOGETHER])
def test_a_sampler_that_hands_its_steps_over_runs_at_full_size(column):
    """Each stage would take steps_to_run for its own, and the next sampler would go on from stage 2 alone."""
    row = Row("RES4LYF, chained", "", sample=guidance_packs.clownshark_chained)
    together = sampled(row.sample, row.inputs(), column)
    assert together.runs.notes[0] == [
        "All steps run at full size: the sampler does only a part of its steps (steps_to_run, start_at_step), and "
        "another may go on from there."
    ]
    assert all(step["stage"] == "full" for report in together.runs.reports for step in report["plan"])
    if column == MIXED:
        assert torch.equal(together.latents[0], stock(row).latents[0])


@needs("ClownGuide_Beta")
@pytest.mark.parametrize("column", COLUMNS)
def test_a_guide_of_the_full_size_makes_the_run_start_again(column):
    row = Row("ClownsharKSampler, guide", SAMPLERS, sample=guidance_packs.clownshark_guided)
    if column in (DEEP, CROSS, CUT):
        assert cell(row, column).state == "exact"
        return
    together = sampled(row.sample, row.inputs(), column)
    assert "something on the model failed in a run that begins at 8x8 latents" in together.runs.notes[0][0]
    if column == MIXED:
        assert torch.equal(together.latents[0], stock(row).latents[0])


@needs("Automatic CFG - Excellent attention")
@pytest.mark.parametrize("column", [DEEP, CROSS])
def test_nothing_is_reused_where_a_node_evaluates_the_model_past_the_run(column):
    """Automatic CFG's attention modifiers call the model with the options it had when they were put on it."""
    row = Row("Excellent attention", "", guidance_packs.on_model("Automatic CFG - Excellent attention"))
    together = sampled(row.sample, row.inputs(), column)
    assert torch.equal(together.latents[0], stock(row).latents[0]) and together.work == stock(row).work
    assert any("nothing was reused" in note for note in together.runs.notes[0])


@needs("smZ Settings")
def test_steps_that_smz_settings_count_are_those_of_both_stages():
    """Guidance begins after 3 of 8 steps (the host's own reference of two runs would begin it twice)."""
    row = Row("skip_early_cond", "", guidance_packs.smz_settings(skip_early_cond=0.3))
    low, full = (sampled(row.sample, row.inputs(), column).work for column in (MIXED, DEEP))
    assert [step > low[0] for step in low[:4]] == [False, False, False, True]
    assert low[4] == low[5] == low[6] == low[7] == stock(row).work[7]
    assert full[0] == stock(row).work[0]


@needs("DiffusionCG")
@pytest.mark.parametrize(("until", "low_steps"), [(0.2, 0), (0.5, 3)])
def test_a_low_stage_of_one_step_is_left_out_where_a_node_divides_by_its_length(until, low_steps):
    row = Row(
        "DiffusionCG",
        "",
        guidance_packs.on_model("DiffusionCG"),
        model=tiny_models.sd15,
        given={"steps": 5, "sampler_name": "dpmpp_2m"},
    )
    inputs = row.inputs()
    model = pack_nodes.with_mixed_resolution(inputs["model"], Techniques(low_res_scale=0.5, low_res_until=until))
    sampler_nodes.ksampler(inputs | {"model": model})
    report = pack_nodes.report(model)
    assert sum(step["stage"] == "low" for step in report["plan"]) == low_steps
    assert any("ZeroDivisionError" in note for note in report["notes"]) == (not low_steps)


def coupled(inputs: Inputs) -> Inputs:
    """What PC: Text Encode makes of `one COUPLE another`: a hook on the prompt, a half of the picture each."""
    package = nodes.NODE_CLASS_MAPPINGS["PCTextEncode"].__module__.rpartition(".")[0]
    module = importlib.import_module(f"{package}.attention_couple_ppm")
    mask = (companions.pixel_ramp(inputs) > 0.5).float()
    parts = [
        [prompt, values | {"mask": half, "mask_strength": 1.0}]
        for (prompt, values), half in zip(
            [inputs["positive"][0], companions.another_prompt(inputs)[0]], (1 - mask, mask), strict=True
        )
    ]
    return inputs | {"positive": module.set_cond_attnmask(parts[:1], parts[1:])}


COUPLE = Row("PC: Text Encode, COUPLE", guidance_packs.GUIDANCE, coupled)


@needs("PCTextEncode")
@pytest.mark.parametrize("column", [MIXED, DEEP, CUT])
def test_coupled_prompts_and_a_technique_together(column):
    assert cell(COUPLE, column).state == "exact"


@needs("PCTextEncode")
@pytest.mark.parametrize("column", [CROSS, TOGETHER])
def test_cross_attention_of_coupled_prompts_is_computed_in_every_step(column):
    together = sampled(COUPLE.sample, COUPLE.inputs(), column)
    assert len(together.runs.notes[0]) == 1 and "attention couple" in together.runs.notes[0][0]
    assert all(torch.isfinite(latent).all() for latent in together.latents)


@needs("NormalizedAttentionGuidance")
@pytest.mark.parametrize("column", COLUMNS)
def test_attention_guidance_at_cfg_1_stays_to_the_end(column):
    """This one needs no negative prompt's rows, unlike the host's NAGuidance."""
    row = Row("NAG, cfg 1", "", guidance_packs.normalized_attention, given={"cfg": 1.0}, idle=frozenset({CUT}))
    assert cell(row, column).state == "exact"


@needs("Automatic CFG")
def test_removing_the_node_removes_its_effect():
    row = Row("Automatic CFG", "", guidance_packs.on_model("Automatic CFG"))
    inputs = row.inputs()
    before = sampler_nodes.ksampler(inputs)[0]
    first, second = (sampler_nodes.ksampler(inputs | {"model": patched(inputs["model"], TOGETHER)[0]}) for _ in "12")
    assert torch.equal(first[0], second[0])
    assert torch.equal(sampler_nodes.ksampler(inputs)[0], before)
