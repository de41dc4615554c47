"""What nodes hook into a model: told apart by what they are and what they were made with, not by what runs leave."""

import functools
import time

import comfy.patcher_extension
import pytest
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_freelunch import FreeU, FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel

import tiny_models
from postdiff.postdiff_core.calibrate.fingerprint import fingerprint
from postdiff.postdiff_core.calibrate.hooks import DEPTH, digest_of_hooks

GRAPHS = {
    "nothing": [],
    "FreeU": [(FreeU, 1.1, 1.2, 0.9, 0.2)],
    "FreeU with another number": [(FreeU, 1.1, 1.2, 0.9, 0.3)],
    "FreeU_V2": [(FreeU_V2, 1.1, 1.2, 0.9, 0.2)],
    "Deep Shrink": [(PatchModelAddDownscale, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")],
    "Deep Shrink to its end": [(PatchModelAddDownscale, 3, 2.0, 0.0, 0.5, True, "bicubic", "bicubic")],
    "Deep Shrink by area": [(PatchModelAddDownscale, 3, 2.0, 0.0, 0.35, True, "area", "bicubic")],
    "Deep Shrink and FreeU": [
        (PatchModelAddDownscale, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic"),
        (FreeU, 1.1, 1.2, 0.9, 0.2),
    ],
    "RescaleCFG": [(RescaleCFG, 0.7)],
    "RescaleCFG with another number": [(RescaleCFG, 0.5)],
    "HyperTile": [(HyperTile, 64, 2, 0, False)],
    "token merging": [(TomePatchModel, 0.3)],
    "APG": [(APG, 1.0, 5.0, 0.5)],
    "self-attention guidance": [(SelfAttentionGuidance, 0.5, 2.0)],
}


def built(graph):
    model = tiny_models.small_unet()
    for node, *settings in GRAPHS[graph]:
        model = (RescaleCFG().patch if node is RescaleCFG else node.execute)(model, *settings)[0]
    return model


def test_no_two_graphs_have_the_same_fingerprint_and_every_graph_the_same_one_each_time():
    prints = {graph: fingerprint(built(graph)) for graph in GRAPHS}
    assert len(set(prints.values())) == len(GRAPHS), prints
    assert {graph: fingerprint(built(graph)) for graph in GRAPHS} == prints
    assert {graph: fingerprint(built(graph).clone()) for graph in GRAPHS} == prints


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_run_changes_no_fingerprint(graph):
    """Token merging, APG and self-attention guidance keep in their closures what the run gave them."""
    model = built(graph)
    before = fingerprint(model)
    tiny_models.stock_sample(model, steps=2, cfg=3.0)
    assert fingerprint(model) == before


def with_hook(add):
    model = tiny_models.small_unet()
    add(model)
    return fingerprint(model)


def test_wrappers_and_callbacks_without_a_key_count():
    def wrapper(executor, *args):
        return executor(*args)

    def callback(*_):
        pass

    prints = [
        with_hook(add)
        for add in (
            lambda model: None,
            lambda model: model.add_wrapper(WrappersMP.APPLY_MODEL, wrapper),
            lambda model: model.add_wrapper(WrappersMP.APPLY_MODEL, callback),
            lambda model: model.add_wrapper(WrappersMP.PREDICT_NOISE, wrapper),
            lambda model: model.add_callback(CallbacksMP.ON_LOAD, callback),
            lambda model: comfy.patcher_extension.add_wrapper(
                WrappersMP.APPLY_MODEL, wrapper, model.model_options, is_model_options=True
            ),
        )
    ]
    assert len(set(prints)) == len(prints)


def made_with(value, other=None):
    def hook(default=other):
        return value, default

    return hook


class Unknown:
    __slots__ = ("setting",)

    def __init__(self, setting):
        self.setting = setting

    def method(self):
        pass

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __repr__(self):
        raise RuntimeError


class AnotherUnknown(Unknown):
    pass


DIFFERENT = [
    *(1, 1.0, True, None, "1", b"1", [1], (1, 2), {1: 2}, {2: 1}, {1}, {1, 2}, {"a": {"b": [1]}}, {"a": {"b": [2]}}),
    *(torch.float16, torch.zeros(3), torch.ones(3), torch.zeros(3, dtype=torch.int), torch.zeros(3, 1)),
    *(torch.zeros(3, device="meta"), torch.ones(3).to_sparse()),
    *(WrappersMP, Unknown, Unknown(1), AnotherUnknown(1), Unknown(1).method, AnotherUnknown(1).method, len, max),
    *(made_with(1), made_with(2), made_with(1, 2), made_with([1]), made_with((1, {"a": 1})), made_with((1, {"a": 2}))),
    *(made_with(made_with(1)), made_with(made_with(2)), made_with(Unknown(1))),
    *(functools.partial(made_with, 1), functools.partial(made_with, 2), functools.partial(made_with, other=2)),
]


def test_different_hooks_have_different_digests():
    digests = [digest_of_hooks({"hook": each}) for each in DIFFERENT]
    alike = {
        (repr(type(DIFFERENT[i])), i, digests.index(digest))
        for i, digest in enumerate(digests)
        if digests.index(digest) != i
    }
    assert not alike


def test_objects_count_by_their_types_alone():
    assert digest_of_hooks([Unknown(1)]) == digest_of_hooks([Unknown(2)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (made_with({"a": [1], "b": 2}), made_with({"b": 2, "a": [1]})),
        ({"x", "y", "z"}, {"z", "y", "x"}),
        (made_with({}), made_with({torch.device("cpu"): True})),
    ],
    ids=["options", "closure", "set", "what a run found out about a device"],
)
def test_the_order_in_which_settings_came_does_not_count(one, other):
    assert digest_of_hooks(one) == digest_of_hooks(other)


def test_the_order_of_patches_counts():
    assert digest_of_hooks([len, max]) != digest_of_hooks([max, len])


def test_what_is_shared_counts_as_what_is_copied():
    shared = {"a": [1]}
    assert digest_of_hooks([shared, shared]) == digest_of_hooks([{"a": [1]}, {"a": [1]}])


def test_a_variable_that_another_hook_sets_does_not_count():
    def hooks(setting):
        last = None

        def writes(value):
            nonlocal last
            last = value

        def reads():
            return last, setting

        return writes, reads

    ran, fresh = hooks(1), hooks(1)
    ran[0](5)
    assert digest_of_hooks(ran) == digest_of_hooks(fresh) != digest_of_hooks(hooks(2))
    assert digest_of_hooks({"a": ran[1], "b": ran[0]}) == digest_of_hooks({"a": fresh[1], "b": fresh[0]})


def test_hooks_that_hold_each_other_without_end_have_a_digest():
    def ring(setting):
        def one():
            return other, setting

        def other():
            return one

        options = {"one": one}
        options["self"] = [options, options]
        return options

    assert digest_of_hooks(ring(1)) == digest_of_hooks(ring(1)) != digest_of_hooks(ring(2))


def test_hooks_nested_deeper_than_any_node_does_have_a_digest_in_no_time():
    deep, wide = [], []
    for _ in range(100 * DEPTH):
        deep, wide = [deep], [wide, wide]
    began = time.monotonic()
    assert digest_of_hooks(deep) and digest_of_hooks(wide)
    assert time.monotonic() - began < 5


def test_a_variable_not_yet_set_is_no_obstacle():
    def early():
        return late

    assert digest_of_hooks(early)
    late = 1
