"""A run leaves nothing behind: not when it ends, not when it fails, not when it is interrupted, at whatever step."""

import copy
import gc
import weakref
from dataclasses import replace

import comfy.model_management
import comfy.samplers
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import SamplerCustom

import pack_nodes
import tiny_models
import traces
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler
from postdiff.postdiff_core import patch, schedule
from postdiff.postdiff_core.row_cache import RowCache
from postdiff.postdiff_core.run import Run
from reference import EVERYTHING, WITHOUT_DEEP_CACHE, Techniques

STEPS = 6
MODELS = {"sd15": tiny_models.sd15, "pixart_alpha": tiny_models.pixart_alpha}


class LayerError(Exception):
    """What a layer raises in these tests."""


def fail(_module, _inputs, _output):
    raise LayerError


def interrupt(_module, _inputs, _output):
    """What the canvas does; the host raises in the next layer it comes to."""
    comfy.model_management.interrupt_current_processing()


def at_evaluation(model, number, action):
    """Let `action` happen inside the model's evaluation of that number: after a layer that every evaluation runs."""
    network = model.model.diffusion_model
    layer = network.blocks[-1].attn.proj if hasattr(network, "blocks") else network.output_blocks[-1][0].in_layers[0]
    seen = []

    def hook(*args):
        seen.append(number)
        if len(seen) == number + 1:
            action(*args)

    return layer.register_forward_hook(hook)


@pytest.fixture(params=MODELS)
def model(request):
    model = MODELS[request.param]()
    tiny_models.stock_sample(model, steps=1)  # the host prepares the modules of a model when it is first used
    return model


@pytest.fixture
def patched(model):
    return pack_nodes.patched(model, WITHOUT_DEEP_CACHE if tiny_models.is_transformer(model) else EVERYTHING)


def sample(model):
    return tiny_models.stock_sample(model, steps=STEPS, scheduler="simple")


def run_that_ends_with(error, patched):
    try:
        sample(patched)
    except error:
        return
    pytest.fail(f"The run did not end with {error.__name__}.")


def test_after_a_run_everything_is_as_before(model, patched):
    stock = sample(model)
    before = traces.state(model), traces.state(patched)
    changed = sample(patched)
    assert traces.differences(before[0], traces.state(model)) == []
    assert traces.differences(before[1], traces.state(patched)) == []
    assert torch.equal(sample(model), stock)
    assert torch.equal(sample(patched), changed)


def test_after_a_run_no_tensor_of_it_is_alive(patched):
    sample(patched)
    before = traces.live_tensors()
    latent = sample(patched)
    left = [tensor.shape for key, tensor in traces.live_tensors().items() if key not in before and tensor is not latent]
    assert left == []


def test_what_was_cached_is_freed_at_once(model):
    """Not only when the garbage collector comes round: graphics memory does not wait for it."""
    techniques = Techniques(interval=1 if tiny_models.is_transformer(model) else 2, depth=2, cross_attn_start=0.5)
    patched = pack_nodes.patched(model, techniques)
    sample(patched)

    def grown_by_a_run_of(model):
        before = traces.live_bytes()
        gc.disable()
        try:
            sample(model)
            return traces.live_bytes(collect=False) - before
        finally:
            gc.enable()

    leeway = 4096  # sigmas and other crumbs
    cached = pack_nodes.report(patched)["cached_bytes"]
    assert cached > 2 * leeway
    assert grown_by_a_run_of(patched) <= grown_by_a_run_of(model) + leeway


def test_a_patched_model_that_nobody_holds_any_more_is_gone_at_once(model, caplog):
    """Or the host, which watches for that, collects all garbage before every run and warns of a leak."""
    patched = pack_nodes.patched(model, WITHOUT_DEEP_CACHE if tiny_models.is_transformer(model) else EVERYTHING)
    gone = weakref.ref(patched)
    gc.disable()
    try:
        sample(patched)
        del patched
        assert gone() is None
    finally:
        gc.enable()
    sample(model)
    assert not [said for said in caplog.messages if "leak" in said]


def test_transformer_options_that_others_keep_hold_nothing_of_the_run(model):
    """Packs that share attention between layers keep those of the last call, for good."""
    patched = pack_nodes.patched(model, WITHOUT_DEEP_CACHE if tiny_models.is_transformer(model) else EVERYTHING)
    kept = []

    def keep(executor, *args, **kwargs):
        kept[:] = [next(each for each in (*args, *kwargs.values()) if isinstance(each, dict) and "wrappers" in each)]
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "keeps", keep)
    sample(patched)
    gone = weakref.ref(patched)
    del patched
    gc.collect()
    assert kept and gone() is None
    (wrapper, *_) = kept[0]["wrappers"][WrappersMP.APPLY_MODEL]["postdiff"]
    assert wrapper(lambda *args: args, 1, 2) == (1, 2)


@pytest.mark.parametrize(("action", "error"), [(fail, LayerError), (interrupt, InterruptProcessingException)])
def test_after_a_run_that_fails_in_any_step_everything_is_as_before(model, patched, action, error):
    stock, changed = sample(model), sample(patched)
    before = traces.state(model), traces.state(patched)
    held = traces.live_tensors()
    for step in range(STEPS):
        hook = at_evaluation(model, step, action)
        run_that_ends_with(error, patched)
        hook.remove()
        assert traces.differences(before[0], traces.state(model)) == [], step
        assert traces.differences(before[1], traces.state(patched)) == [], step
        left = [tensor.shape for key, tensor in traces.live_tensors().items() if key not in held]
        assert left == [], step
        assert torch.equal(sample(model), stock), step
    assert torch.equal(sample(patched), changed)


def test_what_was_cached_is_free_while_the_error_is_still_being_handled(model, patched):
    """Running out of memory, the host unloads models then: the error still holds the frames of the run."""
    hook = at_evaluation(model, STEPS - 1, fail)
    with pytest.raises(LayerError) as caught:
        sample(patched)
    hook.remove()
    caches = [each for each in gc.get_objects() if isinstance(each, RowCache)]
    assert caught.value.__traceback__ is not None and caches
    assert [cache.bytes for cache in caches] == [0] * len(caches)


@pytest.mark.parametrize("mode", ["cond", "average"])
def test_a_run_that_fails_among_reused_layers_puts_their_forwards_back(mode):
    """The layer fails while all cross-attention layers answer from the cache."""
    model = tiny_models.sd15()
    tiny_models.stock_sample(model, steps=1)
    patched = pack_nodes.with_cross_attn_cache(model, Techniques(cross_attn_start=0.5, mode=mode))
    layers = [module for module in model.model.modules() if "attn2" in module._modules]
    before = traces.state(model)
    hook = at_evaluation(model, STEPS - 1, fail)
    run_that_ends_with(LayerError, patched)
    hook.remove()
    assert layers and not any("forward" in vars(layer.attn2) for layer in layers)
    assert traces.differences(before, traces.state(model)) == []


def bytes_held_in_the_last_step(model, techniques):
    """Memory of all tensors in the last evaluation, once a layer that every evaluation runs has run."""
    held = []
    hook = at_evaluation(model, STEPS - 1, lambda *_: held.append(traces.live_bytes()))
    sample(pack_nodes.patched(model, techniques))
    hook.remove()
    return held[0]


FOUR_STEPS = 0.65  # of the six: the last of them reuses what was kept


def test_deep_features_are_freed_after_their_window():
    model = tiny_models.sd15()
    bytes_held_in_the_last_step(model, Techniques())
    without = bytes_held_in_the_last_step(model, Techniques())
    window_to_the_end = bytes_held_in_the_last_step(model, Techniques(interval=2, depth=2))
    window_that_ended = bytes_held_in_the_last_step(model, Techniques(interval=2, depth=2, deep_end=FOUR_STEPS))
    feature = 2 * 32 * 16 * 16 * 4  # rows, channels, sides, bytes
    assert window_to_the_end >= without + feature
    assert window_that_ended < without + feature


def test_deep_features_of_the_low_resolution_are_freed_at_the_switch():
    """The window ends with the low-resolution stage."""
    model = tiny_models.sd15()
    mixed = {"low_res_scale": 0.5, "low_res_until": FOUR_STEPS}
    bytes_held_in_the_last_step(model, Techniques(**mixed))
    without = bytes_held_in_the_last_step(model, Techniques(**mixed))
    deep = bytes_held_in_the_last_step(model, Techniques(**mixed, interval=2, depth=2, deep_end=FOUR_STEPS))
    assert deep < without + 2 * 32 * 8 * 8 * 4


@pytest.mark.parametrize("postdiff_first", [True, False])
def test_what_another_node_does_once_a_run_it_does_in_each_stage(postdiff_first):
    """Such as to forget what it has cached at the other size."""
    sides = []

    def other(executor, noise, *arguments, **given):
        sides.append(noise.shape[-1])
        return executor(noise, *arguments, **given)

    def with_other(model):
        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "other", other)
        return clone

    def with_postdiff(model):
        return pack_nodes.with_mixed_resolution(model, Techniques(low_res_scale=0.5, low_res_until=0.5))

    model = tiny_models.small_unet()
    sample(with_other(with_postdiff(model)) if postdiff_first else with_postdiff(with_other(model)))
    assert sides == [8, 16]


@pytest.fixture
def evaluations(monkeypatch):
    """The step of each evaluation: what the run takes it for, and what its noise level says."""
    seen = []
    step_of = Run._step_of

    def both(run, timestep):
        seen.append((step_of(run, timestep), schedule.current_step(run.sigmas, timestep[0].item(), run.stage)))
        return seen[-1][0]

    monkeypatch.setattr(Run, "_step_of", both)
    return seen


@pytest.mark.parametrize("sampler_name", comfy.samplers.SAMPLER_NAMES)
def test_the_step_of_every_evaluation_is_that_of_its_noise_level(evaluations, sampler_name):
    patched = pack_nodes.patched(tiny_models.small_unet(), EVERYTHING)
    tiny_models.stock_sample(patched, steps=STEPS, scheduler="karras", sampler_name=sampler_name)
    assert len(evaluations) >= STEPS
    assert all(step == by_noise_level for step, by_noise_level in evaluations)


def sampled_in_silence(executor, model, sigmas, extra_args, _callback, *others):
    return executor(model, sigmas, extra_args, None, *others)


def sampled_twice(executor, *arguments):
    executor(*arguments)
    return executor(*arguments)


def sampled_from_the_third_step_on(executor, model, sigmas, *others):
    return executor(model, sigmas[2:], *others)


@pytest.mark.parametrize(
    ("other", "steps"),
    [
        (sampled_in_silence, range(STEPS)),
        (sampled_twice, [*range(STEPS), *range(STEPS)]),
        (sampled_from_the_third_step_on, range(2, STEPS)),
    ],
)
def test_steps_are_told_by_their_noise_level_where_another_node_samples_in_its_own_way(evaluations, other, steps):
    patched = pack_nodes.with_deep_cache(tiny_models.small_unet(), EVERYTHING)
    patched.add_wrapper(WrappersMP.SAMPLER_SAMPLE, other)
    sample(patched)
    assert evaluations == [(step, step) for step in steps]


class Listener:
    """An observer of a run."""

    def __init__(self):
        self.heard = []

    def on_plan(self, plan, notes):
        self.heard.append(("plan", [step.document() for step in plan.steps], list(notes)))

    def on_step(self, index):
        self.heard.append(("step", index))

    def on_report(self, report):
        self.heard.append(("report", report))


def listened_to(model):
    listener = Listener()
    mixed = patch.add(model, schedule.MixedResolution(0.5, 0.5))
    return patch.add(mixed, schedule.DeepCache(), listener), listener


@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpmpp_2m"])
def test_observers_hear_the_plan_each_step_once_and_the_report(sampler_name):
    patched, listener = listened_to(tiny_models.sd15())
    tiny_models.stock_sample(patched, sampler_name=sampler_name, scheduler="simple")
    plan, *steps, report = listener.heard
    assert plan[0] == "plan" and [step["stage"] for step in plan[1]] == ["low"] * 3 + ["full"] * 3
    assert steps == [("step", index) for index in range(6)]
    assert report == ("report", pack_nodes.report(patched))
    assert report[1]["plan"] == plan[1]


def test_observers_of_patches_hear_the_run_of_a_sampler_node():
    patched, listener = listened_to(tiny_models.small_unet())
    PostDiffKSampler.execute(**tiny_models.sampler_inputs(patched), preset="off")
    assert [event[0] for event in listener.heard] == ["plan", *["step"] * 6, "report"]


def test_observers_hear_no_report_of_a_run_that_fails():
    model = tiny_models.sd15()
    patched, listener = listened_to(model)
    hook = at_evaluation(model, 4, fail)
    run_that_ends_with(LayerError, patched)
    hook.remove()
    assert [event[0] for event in listener.heard] == ["plan"] + ["step"] * 5


def sample_by_name(executor, model_wrap, sigmas, extra_args, callback, noise, latent_image, *others):
    return executor(model_wrap, sigmas, extra_args, callback, noise, latent_image=latent_image, denoise_mask=others[0])


def calc_cond_batch_by_name(executor, model, conds, x_in, timestep, model_options):
    return executor(model, conds, x_in=x_in, timestep=timestep, model_options=model_options)


def prepare_sampling_by_name(executor, model, noise_shape, conds, **others):
    return executor(model, noise_shape=noise_shape, conds=conds, **others)


BY_NAME = {
    WrappersMP.SAMPLER_SAMPLE: sample_by_name,
    WrappersMP.CALC_COND_BATCH: calc_cond_batch_by_name,
    WrappersMP.PREPARE_SAMPLING: prepare_sampling_by_name,
}


@pytest.mark.parametrize(
    "techniques", [EVERYTHING, replace(EVERYTHING, cutoff_start=1.0)], ids=["everything", "without cut-off"]
)
@pytest.mark.parametrize("kind", BY_NAME)
def test_other_packs_wrappers_may_pass_arguments_on_by_name(kind, techniques):
    model = tiny_models.small_unet()
    expected = tiny_models.stock_sample(pack_nodes.patched(model, techniques))
    model.add_wrapper_with_key(kind, "another pack", BY_NAME[kind])
    assert torch.equal(tiny_models.stock_sample(pack_nodes.patched(model, techniques)), expected)


def test_a_sampler_that_evaluates_where_no_step_is_gets_the_stock_prediction():
    def once(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return model(x, sigmas[0] * x.new_ones([len(x)]), **extra_args)

    given = tiny_models.sampler_inputs(tiny_models.small_unet())
    parts = {name: given[name] for name in ("cfg", "positive", "negative", "latent_image")}
    parts |= {"add_noise": True, "noise_seed": 7, "sampler": comfy.samplers.KSAMPLER(once), "sigmas": torch.ones(1)}
    stock, patched = (
        SamplerCustom.execute(model=model, **parts).args[0]["samples"]
        for model in (given["model"], pack_nodes.patched(given["model"], EVERYTHING))
    )
    assert torch.equal(stock, patched)


def test_a_guidance_function_may_copy_the_options_in_depth():
    """Such as attention guidance that changes the copy's attention and evaluates once more."""

    def guided(copied):
        def again(args):
            options = copied(args["model_options"])
            (prediction,) = comfy.samplers.calc_cond_batch(
                args["model"], [args["cond"]], args["input"], args["sigma"], options
            )
            return args["denoised"] + args["cond_denoised"] - 0.9 * prediction

        model = tiny_models.small_unet()
        model.set_model_sampler_post_cfg_function(again)
        return tiny_models.stock_sample(pack_nodes.patched(model, EVERYTHING))

    assert torch.equal(guided(copy.deepcopy), guided(create_model_options_clone))


@pytest.mark.parametrize("forgotten", ["transformer_options", "uuids"])
def test_a_model_called_without_what_tells_rows_apart_is_computed_and_noted(forgotten):
    """As by nodes that make their own model calls, some after a host that knew no uuids yet."""
    model = tiny_models.small_unet()

    def forgetful(apply_model, given):
        conds = dict(given["c"])
        options = conds.pop("transformer_options")
        if forgotten != "transformer_options":
            conds["transformer_options"] = {name: value for name, value in options.items() if name != forgotten}
        return apply_model(given["input"], given["timestep"], **conds)

    model.set_model_unet_function_wrapper(forgetful)
    patched = pack_nodes.with_caches(model, Techniques(interval=2, depth=2, cross_attn_start=0.5))
    assert torch.equal(tiny_models.stock_sample(patched), tiny_models.stock_sample(model))
    (note,) = pack_nodes.report(patched)["notes"]
    assert note.endswith("nothing was reused.")
