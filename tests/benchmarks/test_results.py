"""Tables of results, from what was measured."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _quality_report import page
from _results import FOLDER, lead, peers_error_table, peers_speed_table, reuse_table, speed_table

TABLES = {"speed": speed_table, "peers-speed": peers_speed_table, "peers-error": peers_error_table}
TABLES |= {"peers-reuse": reuse_table, "quality": page}
SHIPPED = [
    (path, TABLES[kind])
    for kind in TABLES
    for path in sorted(FOLDER.glob(f"{kind}-*.json"))
    if path.with_suffix(".md").is_file()  # the gate's record has no table
]


def row(name, setting, factor, drifts, keeps_composition=True):
    return {
        **{"name": name, "setting": setting, "work_saved_factor": factor, "failure": None},
        **{"errors": [0.2, 0.2], "drifts": drifts, "keeps_composition": keeps_composition},
    }


OURS = [
    row("PostDiff", "m 0.5", 1.3, [0.01, 0.02]),
    row("PostDiff", "k 2", 1.6, [0.10, 0.30]),
    row("PostDiff", "k 3", 2.0, [0.20, 0.10]),
    row("PostDiff", "beta 0.5", 2.5, [0.001, 0.001], keeps_composition=False),
]


def test_the_lead_is_that_of_the_best_setting_that_does_no_more_work():
    assert lead(OURS, row("a peer", "", 1.5, [0.30, 0.40]), "drifts") == "+0.2000 ± 0.1000"  # k 3, picture by picture
    assert lead(OURS, row("a peer", "", 1.2, [0.02, 0.03]), "drifts") == "+0.0100 ± 0.0000"


def test_where_a_peer_is_ahead_the_lead_is_negative():
    assert lead(OURS, row("a peer", "", 2.0, [0.10, 0.10]), "drifts") == "-0.0500 ± 0.0500"


def test_nothing_is_claimed_at_a_cost_that_no_setting_reaches():
    assert lead(OURS, row("a peer", "", 2.2, [0.9, 0.9]), "drifts") == ""
    assert lead(OURS, row("a peer", "", 2.6, [0.9, 0.9]), "errors") == ""


def test_a_run_that_composes_another_picture_has_no_drift_and_a_pack_that_failed_says_why():
    result = {
        "title": "a model",
        "error_is": "an error",
        "machine": dict.fromkeys(("device", "cores", "torch_threads", "torch", "comfyui", "date"), ""),
        "stock": row("stock", "", 1.0, [0.0, 0.0]),
        "rows": [*OURS, {"name": "a pack", "setting": "", "failure": "ImportError: no"}],
    }
    lines = peers_error_table(result).splitlines()
    (other,) = [line for line in lines if line.startswith("| PostDiff | beta 0.5")]
    assert other == "| PostDiff | beta 0.5 | 2.50 | 0.2000 ± 0.0000 |  |  |  |"
    assert any("ImportError: no" in line for line in lines)


@pytest.mark.parametrize(("path", "table"), SHIPPED, ids=lambda each: getattr(each, "stem", ""))
def test_a_shipped_table_says_what_its_data_say(path, table):
    shown = path.with_suffix(".md").read_text(encoding="utf-8")
    assert shown == table(json.loads(path.read_text(encoding="utf-8"))) + "\n"
