"""The timing of rows and peers: turns, limits, and what is kept of rounds that were not finished."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

import tiny_models

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _models
import peers
import speed
from _candidates import Candidate
from _measure import Clock, take_turns
from _results import speed_table

CLOCK = Clock("wall", "cpu")
OPTIONS = argparse.Namespace(
    **{"size": None, "steps": None, "batch": 1, "rows": None, "dtype": "fp32", "device": "cpu"},
    **{"clock": "wall", "repeats": 2},
)


@pytest.fixture
def tiny_family(monkeypatch):
    host_class = type(tiny_models.small_unet().model.model_config)
    configuration = tiny_models.small_unet().model.model_config.unet_config
    family = _models.Family("Tiny", "sd15", host_class, configuration, 128, 6, 7.5, 77, 16)
    monkeypatch.setitem(_models.FAMILIES, "tiny", family)
    monkeypatch.setattr("_overhead.STEPS", 2)
    return "tiny"


def test_every_second_round_runs_backwards():
    ran = []
    actions = {name: lambda name=name: ran.append(name) for name in "abc"}
    rounds = list(take_turns(actions, 3, CLOCK))
    assert "".join(ran) == "abc" + "cba" + "abc"
    assert [sorted(turns) for turns in rounds] == [["a", "b", "c"]] * 3
    assert all(turn.seconds >= 0 for turns in rounds for turn in turns.values())


@torch.inference_mode()
def test_a_models_rows_are_timed_against_stock_and_both_limits(tiny_family):
    *_, result = speed.measure(tiny_family, OPTIONS)
    rows = {row["name"]: row for row in result["rows"]}
    assert set(rows) == {"stock", "mixed_resolution", "deep_cache", "cross_attn_cache", "cfg_cutoff", "all", "neutral"}
    assert result["repeats"] == 2 and all(len(row["rounds"]) == 2 for row in rows.values())
    assert rows["stock"]["speedup"] == rows["stock"]["attainable"] == rows["stock"]["arithmetic"] == 1
    assert rows["all"]["arithmetic"] > rows["cfg_cutoff"]["arithmetic"] > 1
    assert rows["all"]["cached_mb"] > 0 and rows["neutral"]["cached_mb"] == 0
    first, *others = result["step_kinds"]
    assert first["name"] == "latent 16x16, guided" and len(others) > 3
    assert all(kind["seconds"] > 0 and kind["on_smallest"] > 0 for kind in result["step_kinds"])
    assert "on the smallest latent" in speed_table(result)


@torch.inference_mode()
def test_the_rounds_before_an_interruption_are_given(tiny_family, monkeypatch):
    runs = []

    def sample(row, **_):
        runs.append(row)
        if len(runs) > 2 + 2:  # the warm-up, and a round
            raise KeyboardInterrupt
        sample_of_a_row(row)

    sample_of_a_row = speed.Row.sample
    monkeypatch.setattr(speed.Row, "sample", sample)
    given = []
    with pytest.raises(KeyboardInterrupt):
        for result in speed.measure(tiny_family, argparse.Namespace(**{**vars(OPTIONS), "rows": ["all"]})):
            given.append(result)
    assert [result["repeats"] for result in given] == [1]
    assert [row["name"] for row in given[0]["rows"]] == ["stock", "all"]


def test_a_row_that_a_model_does_not_have_is_named_with_those_it_has():
    with pytest.raises(SystemExit, match="LCM has no row deep_cache; it has stock, mixed_resolution"):
        next(speed.measure("lcm", argparse.Namespace(**{**vars(OPTIONS), "rows": ["deep_cache"]})))


def test_a_peer_that_fails_at_once_or_later_loses_nothing_else(monkeypatch):
    runs = []

    def sample(inputs):
        runs.append(inputs["name"])
        if inputs["name"] == "fails later" and runs.count("fails later") == 3:  # after its warm-up and a round
            raise RuntimeError("no longer")

    def fail(given):
        raise ValueError("not this model")

    monkeypatch.setattr("_measure.sample", sample)
    named = [Candidate(name, "", lambda given, name=name: {**given, "name": name}) for name in ("works", "fails later")]
    candidates = [*named, Candidate("fails at once", "", fail)]
    rows = {row["name"]: row for row in peers.take_turns_if_they_work(candidates, {"steps": 3}, 2, CLOCK)}
    assert {name: row["failure"] for name, row in rows.items()} == {
        "works": None,
        "fails later": "RuntimeError: no longer",
        "fails at once": "ValueError: not this model",
    }
    assert len(rows["works"]["rounds"]) == 2 and rows["fails at once"]["rounds"] == []
