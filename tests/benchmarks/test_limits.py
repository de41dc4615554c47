"""The limits that a speed-up is compared with."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny_models

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _limits import Limits
from _measure import Clock, count, sample

from postdiff.postdiff_core import cost, patch
from postdiff.postdiff_core.presets import PRESETS
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


def test_pricing_a_plan_is_not_taken_for_executed_work(inputs):
    cost._trace.cache_clear()
    patched = patch.fill(inputs["model"], SETTINGS)
    _, executed = count(lambda: sample({**inputs, "model": patched}))
    assert executed == pytest.approx(patch.carried_by(patched).last_report["totals"]["macs"], rel=1e-3)


def test_executed_work_is_the_counted_work(inputs, report):
    _, stock = count(lambda: sample(inputs))
    assert stock == pytest.approx(report["totals"]["macs_stock"], rel=1e-3)
    patched = patch.fill(inputs["model"], SETTINGS)
    _, executed = count(lambda: sample({**inputs, "model": patched}))
    assert executed == pytest.approx(report["totals"]["macs"], rel=1e-3)


class NumbersWritten(TorchDispatchMode):
    """Counts the numbers that tensor operations write; views write none."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not operation.is_view:
            self.total += result.numel()
        return result


class AtEachStep:
    """An observer that notes what has been written when each step begins."""

    def __init__(self, written: NumbersWritten) -> None:
        self.written, self.marks = written, []

    def on_plan(self, plan, notes): ...

    def on_report(self, report): ...

    def on_step(self, index):
        self.marks.append(self.written.total)


@pytest.mark.parametrize(
    ("preset", "build", "side"), [("sd15", tiny_models.small_unet, 32), ("pixart_alpha", tiny_models.pixart_alpha, 96)]
)
def test_beyond_the_plain_truncated_forwards_a_run_only_copies_what_it_will_reuse(preset, build, side):
    """Time depends on the machine, this does not: at most 2 % more is written."""
    model, settings = build(), PRESETS[preset]
    inputs = tiny_models.sampler_inputs(model, steps=8, latent_image=tiny_models.latent(model, side, side))
    written = NumbersWritten()
    observer = AtEachStep(written)
    patched = patch.fill(model, settings, observer)
    sample({**inputs, "model": patched})  # the report counts work once, on tensors of its own
    observer.marks.clear()
    with written:
        sample({**inputs, "model": patched})
    report = patch.carried_by(patched).last_report
    spent = [later - sooner for sooner, later in zip(observer.marks, [*observer.marks[1:], written.total], strict=True)]

    limits = Limits(inputs, Clock("wall", "cpu"), depth=settings.deep_cache.depth if settings.deep_cache else None)
    limits.time_steps_of([report])
    least = []
    for kind in limits.kinds_of(report):
        with NumbersWritten() as one:
            limits.run(kind, steps=1)
        with NumbersWritten() as two:
            limits.run(kind, steps=2)
        least.append(two.total - one.total)
    assert sum(spent) < 1.02 * sum(least)
