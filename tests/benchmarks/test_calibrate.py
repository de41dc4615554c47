"""The calibration's search on the stored scores of the full grid, and the figures read off them."""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import calibrate
from _calibration import agreement, best_of_grid, replay, table

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
REPLAYS = 200


@pytest.fixture(scope="module")
def stored():
    """What `python dev.py bench calibrate` measured on the embedded model."""
    return json.loads((RESULTS / "calibrate-embedded-cpu.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def searched(stored):
    return {row["name"]: row["errors"] for row in stored["candidates"] if row["searched"]}


@pytest.fixture(scope="module")
def cost(stored):
    return {row["name"]: row["share"] for row in stored["candidates"] if row["searched"]}


def test_the_choice_is_mostly_within_one_standard_error_of_the_grids_best_at_a_tenth_of_its_cost(searched, cost):
    """The goal is 0.9. The pictures that the search's rule was chosen on gave 0.91; on these others it is 0.86."""
    found = replay(searched, cost, 36, REPLAYS)
    assert found.within_error_of_best >= 0.8
    assert found.cost <= 0.1
    assert share_within_error_of_best(searched) < 0.5, "or chance would do as well"


def share_within_error_of_best(errors):
    best = errors[best_of_grid(errors)]
    limit = mean(best) + stdev(best) / len(best) ** 0.5
    return mean(mean(row) <= limit for row in errors.values())


@pytest.mark.parametrize(("varied", "least"), [("s", 0.4), ("all", 0.7)])
def test_a_small_set_ranks_settings_much_as_the_others_do_and_the_better_the_larger_it_is(stored, varied, least):
    """The paper's figure 9, which varies s alone. Its four values lie so near here that 8 pictures reach 0.49."""
    rows = [row for row in stored["candidates"] if row["varies_s_only" if varied == "s" else "searched"]]
    errors = {row["name"]: row["errors"] for row in rows}
    agreements = [agreement(errors, size, REPLAYS) for size in (1, 4, 8)]
    assert agreements == sorted(agreements)
    assert agreements[-1] > least


def test_the_stored_figures_are_what_the_search_gives_today(stored, searched, cost):
    assert replay(searched, cost, stored["searched_pictures"], stored["replays"])._asdict() == stored["replay"]
    text = (RESULTS / "calibrate-embedded-cpu.md").read_text(encoding="utf-8")
    assert text == table(stored) + "\n"


def test_a_sure_winner_is_always_chosen_and_the_cost_is_counted_in_work():
    errors = {"good": [0.1, 0.2, 0.3, 0.2], "bad": [0.5, 0.7, 0.6, 0.8]}
    found = replay(errors, {"good": 1.0, "bad": 0.5}, 4, 10)
    assert (found.within_error_of_best, found.work_of_choice) == (1.0, 1.0)
    assert found.choices == {"good": 10}
    assert found.cost == pytest.approx(1.0)


def test_sets_that_rank_alike_agree_and_those_that_rank_in_reverse_do_not():
    alike = {name: [value, value + 10, value + 20, value + 30] for name, value in zip("abcd", range(4), strict=True)}
    assert agreement(alike, 2, 5) == pytest.approx(1)
    opposite = {name: [value, -value] for name, value in zip("abcd", range(4), strict=True)}
    assert agreement(opposite, 1, 5) == pytest.approx(-1)


def test_an_interrupted_measurement_goes_on_after_its_last_whole_line(tmp_path):
    file = tmp_path / "scores.jsonl"
    whole = json.dumps({"candidate": "8 steps", "picture": 0, "error": 0.5}) + "\n"
    file.write_text(whole + whole[:20])
    assert [record["error"] for record in calibrate._records(file)] == [0.5]
    assert file.read_text() == whole


def test_scores_made_otherwise_are_not_gone_on_with(monkeypatch):
    before = calibrate.store("cpu")
    assert calibrate.store("cpu") == before != calibrate.store("cuda")
    monkeypatch.setattr(calibrate, "STEPS", 4)
    assert calibrate.store("cpu") != before
