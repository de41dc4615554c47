"""Reading a table's figures off measured points."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _results import error_at, peers_error_table


def test_the_error_lies_straight_between_two_points():
    assert error_at([(1.0, 0.1), (3.0, 0.5)], 2.0) == pytest.approx(0.3)


def test_a_point_that_saves_more_and_errs_less_hides_others():
    assert error_at([(1.5, 0.9), (2.0, 0.2), (3.0, 0.4)], 1.6) == pytest.approx(0.2)


def test_beyond_the_cheapest_point_nothing_is_claimed():
    assert error_at([(1.5, 0.1), (2.0, 0.2)], 2.5) is None


def row(name, setting, factor, drift, keeps_composition=True):
    return {
        **{"name": name, "setting": setting, "work_saved_factor": factor, "failure": None},
        **{"error": 0.2, "standard_error": 0.01, "drift": drift, "drift_standard_error": 0.01},
        "keeps_composition": keeps_composition,
    }


def test_a_peers_drift_is_set_beside_ours_without_the_runs_that_compose_another_picture():
    ours = [row("PostDiff", "k 2", 1.5, 0.1), row("PostDiff", "beta 0.5", 2.5, 0.001, keeps_composition=False)]
    result = {
        "title": "a model",
        "error_is": "an error",
        "clock": "wall",
        "repeats": 1,
        "machine": dict.fromkeys(("device", "cores", "torch_threads", "torch", "comfyui", "date"), ""),
        "stock": row("stock", "", 1.0, 0.0),
        "rows": [*ours, row("a peer", "", 1.5, 0.3), {"name": "a pack", "setting": "", "failure": "ImportError: no"}],
    }
    lines = peers_error_table(result).splitlines()
    (peer,) = [line for line in lines if line.startswith("| a peer")]
    assert peer.endswith("| 0.3000 ± 0.0100 | 0.1000 |")
    (other,) = [line for line in lines if line.startswith("| PostDiff | beta 0.5")]
    assert other.endswith("| 0.2000 ± 0.0100 |  |  |  |")
    assert any("ImportError: no" in line for line in lines)
