"""Which settings a calibration compares, and what it takes them to cost."""

import nodes
import pytest

import tiny_models
from postdiff.postdiff_core import patch
from postdiff.postdiff_core.calibrate.grid import QUICK, THOROUGH, Candidate, Grid, usable_techniques
from postdiff.postdiff_core.calibrate.pricing import Pricing
from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings

EVERYTHING = ("mixed_resolution", "deep_cache", "cross_attn_cache", "cfg_cutoff")
LISTS = Grid((8, 4), (0.5, 1.0), (0.0, 0.5), (1, 2), (0.0, 0.25), (0.5, 1.0))


def pricing_for(model, *, cfg=5.0, steps=8, sampler_name="euler"):
    size = tuple(tiny_models.latent(model)["samples"].shape[-2:])
    return Pricing(model, sampler_name, "normal", cfg, size, tokens=7, stock_steps=steps)


def test_every_combination_is_there_once_and_neutral_values_mean_absent():
    candidates = LISTS.candidates(EVERYTHING)
    assert len(candidates) == len(set(candidates)) == 2 * 2 * 3 * 2  # beta 1 and s 0 are one, k 1 begins nowhere
    assert Candidate(8, Settings()) in candidates
    late = CrossAttnCache(0.5), CFGCutoff(0.5)
    for deep_cache in (DeepCache(2), DeepCache(2, start_percent=0.25)):
        assert Candidate(4, Settings(MixedResolution(0.5, 0.5), deep_cache, *late)) in candidates


def test_a_candidate_names_its_values_as_the_nodes_do():
    candidate = Candidate(8, Settings(MixedResolution(0.75, 0.3), None, CrossAttnCache(0.6), CFGCutoff(0.6)))
    values = (candidate.low_res_scale, candidate.low_res_until, candidate.interval, candidate.start_percent)
    assert values == (0.75, 0.3, 1, 0.6)
    assert str(candidate) == "8 steps, beta 0.75, s 0.3, m 0.6"
    assert str(Candidate(8, Settings())) == "8 steps"
    deep = Candidate(8, Settings(deep_cache=DeepCache(3, start_percent=0.25)))
    assert (deep.interval, deep.deep_cache_start, str(deep)) == (3, 0.25, "8 steps, k 3 from 0.25")
    assert str(Candidate(8, Settings(deep_cache=DeepCache(2)))) == "8 steps, k 2"


@pytest.mark.parametrize(
    ("build", "cfg", "expected"),
    [
        (tiny_models.sd15, 5.0, EVERYTHING),
        (tiny_models.sd15, 1.0, EVERYTHING[:3]),
        (tiny_models.pixart_alpha, 5.0, (EVERYTHING[0], *EVERYTHING[2:])),
        (tiny_models.auraflow, 5.0, (EVERYTHING[0], EVERYTHING[3])),
    ],
)
def test_only_techniques_that_act_on_the_model_are_combined(build, cfg, expected):
    able = usable_techniques(build(), cfg)
    assert able == expected
    for candidate in LISTS.candidates(able):
        assert all(getattr(candidate.settings, name) is None for name in set(EVERYTHING) - set(able))


@pytest.mark.parametrize("values", [QUICK, THOROUGH])
def test_the_ready_made_grids_hold_settings_that_are_neutral_and_the_papers(values):
    candidates = Grid((20,), **values).candidates(EVERYTHING)
    late = CrossAttnCache(0.75), CFGCutoff(0.75)
    assert Candidate(20, Settings()) in candidates
    assert Candidate(20, Settings(MixedResolution(0.5, 0.5), DeepCache(2), *late)) in candidates
    assert Candidate(20, Settings(deep_cache=DeepCache(2, start_percent=0.25))) in candidates  # not the paper's
    assert Candidate(20, Settings(MixedResolution(0.75, 0.2), DeepCache(2), *late)) in candidates


@pytest.mark.parametrize("build", [tiny_models.small_unet, tiny_models.pixart_alpha])
@pytest.mark.parametrize("sampler_name", ["euler", "dpm_2"])  # one of them drops a sigma
def test_the_cost_is_what_the_run_itself_reports(build, sampler_name):
    model = build()
    settings = Settings(MixedResolution(0.75, 0.5), None, CrossAttnCache(0.6), CFGCutoff(0.6))
    pricing = pricing_for(model, sampler_name=sampler_name)
    patched = patch.fill(model, settings)
    nodes.KSampler().sample(**tiny_models.sampler_inputs(patched, steps=8, sampler_name=sampler_name))
    report = patch.carried_by(patched).last_report
    saved = 1 - pricing.share(Candidate(8, settings))
    assert saved == pytest.approx(report["totals"]["work_saved"], abs=1e-9)
    assert [step.document() for step in pricing.plan(Candidate(8, settings))[0].steps] == report["plan"]


def test_fewer_steps_cost_their_share_of_the_stock_run():
    pricing = pricing_for(tiny_models.small_unet())
    assert pricing.share(Candidate(8, Settings())) == pytest.approx(1)
    assert pricing.share(Candidate(6, Settings())) == pytest.approx(0.75)


def test_candidates_whose_runs_are_the_same_step_by_step_are_tried_once():
    pricing = pricing_for(tiny_models.small_unet())
    same = [Candidate(8, Settings(MixedResolution(0.5, s))) for s in (0.5, 0.49, 0.48, 0.25)]
    assert pricing.distinct(same) == [same[0], same[3]]


def test_where_work_cannot_be_counted_steps_cost_their_pixels_and_rows():
    pricing = pricing_for(tiny_models.auraflow())
    half = Candidate(8, Settings(MixedResolution(0.5, 0.5), cfg_cutoff=CFGCutoff(0.5)))
    steps = pricing.plan(half)[0].steps
    expected = sum((0.25 if step.low_res else 1) * (1 if step.guided else 0.5) for step in steps) / 8
    assert pricing.share(half) == pytest.approx(expected)


def test_candidates_change_resolution_as_the_grid_says_but_for_the_values_listed():
    own = MixedResolution(0.6, 0.4, "nearest-exact", "matched")
    candidates = Grid((8,), (0.5, 0.75), (0.3,), (1,), (0.0,), (1.0,), own).candidates(EVERYTHING)
    changes = [candidate.settings.mixed_resolution for candidate in candidates]
    assert changes == [MixedResolution(beta, 0.3, "nearest-exact", "matched") for beta in (0.5, 0.75)]
