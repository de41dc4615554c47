"""Many runs in one process, cancelled, failing, out of memory: nothing grows, and the next is as in a fresh process."""

from __future__ import annotations

import gc
import logging
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import comfy.model_management as management
import psutil
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

import fresh_process
import pack_nodes
import tiny_models
import traces
from fresh_process import MODELS, STEPS, patched, sample
from reference import Techniques

pytestmark = pytest.mark.timeout(60 * 60)
RUNS, WARM_UP, LOOK_EVERY = 200, 40, 20
RESIDENT_LEEWAY = 0.02
INTERRUPTS = 50
NEVER = -1
REMEMBERED_CLASSES = ("weakref.ReferenceType", "builtins.builtin_function_or_method")
SIZES = [(16, 16), (12, 20), (17, 15), (24, 16)]


@pytest.fixture(scope="module")
def fresh() -> dict[str, torch.Tensor]:
    return fresh_process.latents_of_a_fresh_process()


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> ModelPatcher:
    return MODELS[name]()


@pytest.fixture
def run(model: ModelPatcher) -> ModelPatcher:
    """The model with every technique that can act on it."""
    return patched(model)


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Without log records, which pytest keeps."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


class Left:
    """What runs leave on these models and in memory, from when this is made."""

    def __init__(self, *models: ModelPatcher) -> None:
        self._models = models
        self._states = [traces.state(model) for model in models]
        gc.collect()
        gc.freeze()  # live_tensors leaves out all that there is so far

    def assert_nothing(self, where: object) -> None:
        for model, state in zip(self._models, self._states, strict=True):
            assert traces.differences(state, traces.state(model)) == [], where
        assert [tensor.shape for tensor in traces.live_tensors().values()] == [], where


def random_run(models: list[ModelPatcher], dice: random.Random) -> None:
    """A run of a model patched anew, with other settings, at another size, as a user at work queues them."""
    model = dice.choice(models)
    techniques = Techniques(
        low_res_scale=dice.choice([0.5, 0.75, 1.0]),
        low_res_until=dice.random(),
        interval=1 if tiny_models.is_transformer(model) else dice.randint(1, 4),
        depth=dice.randint(1, 3),
        cross_attn_start=dice.random(),
        cutoff_start=dice.random(),
        mode=dice.choice(["cond", "average", "uncond", "cfg"]),
    )
    sides = (0, 0) if tiny_models.is_transformer(model) else dice.choice(SIZES)
    tiny_models.stock_sample(
        pack_nodes.patched(model, techniques),
        seed=dice.randrange(2**32),
        steps=dice.randint(3, 5),
        sampler_name=dice.choice(["euler", "euler_ancestral", "dpmpp_2m", "heun"]),
        latent_image=tiny_models.latent(model, *sides, batch=dice.randint(1, 2)),
    )


def objects_alive() -> Counter[str]:
    """The number of objects of each type; without the weak references in which isinstance remembers classes."""
    gc.collect()
    kinds = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    return kinds - Counter({kind: kinds[kind] for kind in REMEMBERED_CLASSES})


def test_two_hundred_runs_in_one_process_leave_memory_as_it_was(fresh, unlogged):
    """Resident memory does not grow, and no type, tensors and wrappers among them, has an object more per two runs."""
    dice, process = random.Random(1), psutil.Process()
    models = [*(tiny_models.small_unet(seed=seed) for seed in range(3)), tiny_models.pixart_alpha()]
    for _ in range(WARM_UP):
        random_run(models, dice)
    states, alive, resident = [traces.state(model) for model in models], objects_alive(), []
    for number in range(WARM_UP, RUNS):
        random_run(models, dice)
        if number % LOOK_EVERY == 0:
            resident.append(process.memory_info().rss)
    grown = {kind: count for kind, count in (objects_alive() - alive).items() if count > (RUNS - WARM_UP) // 2}
    assert grown == {}
    half = len(resident) // 2  # the allocator holds some more at times, so the least of each half counts
    assert min(resident[half:]) <= min(resident[:half]) * (1 + RESIDENT_LEEWAY), resident
    for model, state in zip(models, states, strict=True):
        assert traces.differences(state, traces.state(model)) == []
    assert torch.equal(sample(patched(models[0])), fresh["unet"])
    assert torch.equal(sample(patched(models[-1])), fresh["pixart"])


def test_a_model_patched_again_and_again_carries_each_technique_once(model, name, fresh):
    for number in range(RUNS):
        model = pack_nodes.with_cfg_cutoff(model, Techniques(cutoff_start=number / RUNS))
    model = patched(model)
    (carried,) = model.get_all_wrappers(WrappersMP.OUTER_SAMPLE)
    assert torch.equal(sample(model), fresh[name])
    assert len(carried.notes) == 1 and "twice" in carried.notes[0]


class Cancel:
    """The user presses Cancel just before the host looks for the n-th time whether to go on.

    It looks in every layer of a model.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks, self._at = 0, NEVER
        self._look = management.throw_exception_if_processing_interrupted
        monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", self._count_and_look)

    def at(self, look: int) -> None:
        self.looks, self._at = 0, look

    def _count_and_look(self) -> None:
        self.looks += 1
        if self.looks == self._at:
            management.interrupt_current_processing()
        self._look()


def test_after_fifty_interrupts_at_random_points_a_run_is_as_in_a_fresh_process(model, run, name, fresh, monkeypatch):
    cancel = Cancel(monkeypatch)
    sample(run)
    looks, left = cancel.looks, Left(model, run)
    for look in random.Random(2).sample(range(1, looks + 1), INTERRUPTS):
        cancel.at(look)
        with pytest.raises(InterruptProcessingException):
            sample(run)
        left.assert_nothing(look)
    cancel.at(NEVER)
    assert torch.equal(sample(run), fresh[name])
    assert torch.equal(sample(patched(model)), fresh[name])


class LayerError(Exception):
    """What a layer raises in these tests."""


class Failure:
    """Lets the n-th call of a layer raise an error, counted over all layers of a model."""

    def __init__(self, model: ModelPatcher) -> None:
        self._steps: dict[float, int] = {}  # the first call of each, by timestep
        self._calls, self._at, self._error = 0, NEVER, LayerError
        network = model.model.diffusion_model
        network.register_forward_pre_hook(self._begin_evaluation)
        for module in network.modules():
            if not module._modules:
                module.register_forward_hook(self._call)

    def at(self, call: int, error: type[BaseException] = LayerError) -> None:
        self._steps, self._calls, self._at, self._error = {}, 0, call, error

    def calls_by_step(self) -> list[range]:
        """The numbers of the calls in each step of the last run."""
        first = [*self._steps.values(), self._calls]
        return [range(begin, end) for begin, end in pairwise(first)]

    def _begin_evaluation(self, _, inputs) -> None:
        self._steps.setdefault(inputs[1][0].item(), self._calls)

    def _call(self, *_) -> None:
        self._calls += 1
        if self._calls == self._at + 1:
            raise self._error("as the test asked")


@pytest.fixture
def failure(model: ModelPatcher) -> Failure:
    return Failure(model)


@pytest.mark.parametrize("every_layer", [False, pytest.param(True, marks=pytest.mark.full)])
def test_after_layers_failed_in_every_step_a_run_is_as_in_a_fresh_process(
    model, run, name, fresh, failure, every_layer
):
    """The first, the last and two other calls of a layer in every step; or all of them."""
    sample(run)
    by_step, left, dice = failure.calls_by_step(), Left(model, run), random.Random(3)
    assert len(by_step) == STEPS
    for calls in by_step:
        for call in calls if every_layer else (calls[0], calls[-1], *dice.sample(calls, 2)):
            failure.at(call)
            with pytest.raises(LayerError):
                sample(run)
            left.assert_nothing(call)
    failure.at(NEVER)
    assert torch.equal(sample(run), fresh[name])
    assert torch.equal(sample(patched(model)), fresh[name])


def test_after_running_out_of_memory_in_a_cached_step_a_run_is_as_in_a_fresh_process(run, name, fresh, failure):
    """The host unloads all models then (execution.py), as is done here."""
    sample(run)
    by_step, plan = failure.calls_by_step(), pack_nodes.report(run)["plan"]
    cached = [calls for calls, step in zip(by_step, plan, strict=True) if "reuse" in (step["deep"], step["xattn"])]
    assert cached
    for calls in cached:
        failure.at(calls[len(calls) // 2], torch.OutOfMemoryError)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            sample(run)
        assert management.is_oom(caught.value)
        management.unload_all_models()
        failure.at(NEVER)
        assert torch.equal(sample(run), fresh[name]), calls
