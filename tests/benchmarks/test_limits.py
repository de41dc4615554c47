"""The limits that a speed-up is compared with."""

import sys
from pathlib import Path

import pytest
import torch

import tiny_models

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _limits import Limits
from _measure import Clock
from peers import count, sample

from postdiff.postdiff_core import patch
from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings

SETTINGS = Settings(MixedResolution(), DeepCache(depth=1), CrossAttnCache(), CFGCutoff())


@pytest.fixture(scope="module")
def inputs():
    model = tiny_models.small_unet()
    return tiny_models.sampler_inputs(model, steps=6, latent_image=tiny_models.latent(model, 32, 32))


@pytest.fixture(scope="module")
def report(inputs):
    patched = patch.fill(inputs["model"], SETTINGS)
    sample({**inputs, "model": patched})
    return patch.carried_by(patched).last_report


def test_timing_the_limits_leaves_the_model_as_it_was(inputs, report):
    before = sample(inputs)
    limits = Limits(inputs, Clock("wall", "cpu"), depth=1)
    limits.time_steps_of([report])
    assert torch.equal(sample(inputs), before)
    names = [kind["name"] for kind in limits.document()]
    assert len(names) == len(set(names)) >= 5
    assert limits.speedup_of(report) > 1


def test_a_truncated_step_does_the_work_that_the_report_counts(inputs, report):
    limits = Limits(inputs, Clock("wall", "cpu"), depth=1)
    limits.time_steps_of([report])  # also computes the deep features that truncated steps start from
    for kind, step in zip(limits.kinds_of(report), report["steps"], strict=True):
        _, executed = count(lambda kind=kind: limits.run(kind, steps=1))
        assert executed == pytest.approx(step["macs"], rel=1e-3)


def test_executed_work_is_the_counted_work(inputs, report):
    _, stock = count(lambda: sample(inputs))
    assert stock == pytest.approx(report["totals"]["macs_stock"], rel=1e-3)
    patched = patch.fill(inputs["model"], SETTINGS)
    _, executed = count(lambda: sample({**inputs, "model": patched}))
    assert executed == pytest.approx(report["totals"]["macs"], rel=1e-3)
