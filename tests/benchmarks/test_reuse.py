"""What a step errs with its deep branch reused, and left out."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _reuse

import tiny_models
from compare import largest_difference
from postdiff.postdiff_core import patch
from postdiff.postdiff_core.schedule import DeepCache

STEPS = 6


@pytest.fixture(scope="module")
def inputs():
    return tiny_models.sampler_inputs(tiny_models.small_unet(), seed=7, steps=STEPS)


def record(inputs, model, given=None):
    recorder = _reuse._Recorder(given)
    _reuse._sample(inputs, model, recorder)
    return recorder


def test_the_exact_run_is_the_stock_euler_run(inputs):
    import nodes

    recorder = record(inputs, inputs["model"])
    model = inputs["model"].model
    last = recorder.latents[-1] - recorder.sigmas[-1] * recorder.velocities[-1]  # the last step goes down to 0
    stock = nodes.KSampler().sample(**inputs)[0]["samples"]
    assert largest_difference(model.process_latent_out(last).cpu(), stock) < 1e-5


def test_at_the_exact_latents_only_the_steps_that_reuse_the_deep_branch_err(inputs):
    exact = record(inputs, inputs["model"])
    cached = record(inputs, patch.add(inputs["model"], DeepCache(interval=2, depth=_reuse.DEPTH)), exact.latents)
    same = [torch.equal(one, other) for one, other in zip(exact.velocities, cached.velocities, strict=True)]
    assert same == [True, False] * (STEPS // 2)


def test_every_second_step_is_reported_both_ways(inputs):
    errors = _reuse.step_errors(inputs)
    assert [error.step for error in errors] == [1, 3, 5]
    assert all(0 < error.reused < 2 and 0 < error.left_out < 2 for error in errors)
    assert [error.sigma for error in errors] == sorted((error.sigma for error in errors), reverse=True)
