"""The picture of a calibration stays readable: whatever the scores are, points and axes lie where they should."""

import numpy
import pytest
from PIL import Image

from postdiff.postdiff_core.calibrate.calibration import Result, Row
from postdiff.postdiff_core.calibrate.frontier_picture import CHOSEN, Axis, Example, _axes, _frontier, draw
from postdiff.postdiff_core.calibrate.grid import Candidate
from postdiff.postdiff_core.calibrate.search import Difference
from postdiff.postdiff_core.calibrate.table import document, markdown
from postdiff.postdiff_core.schedule import CFGCutoff, Settings


def row(share, score, pictures=8, error=0.1, m=0.75):
    values = {"CLIP score": score}
    return Row(Candidate(20, Settings(cfg_cutoff=CFGCutoff(m))), share, pictures, score, error, values, 1.5)


def result(rows, chosen, stock=None):
    gain = Difference(-0.2, 0.1) if stock else None
    return Result(chosen, rows, stock, gain, "CLIP score", complete=True, notes=["something to know"])


def test_axes_have_four_to_nine_round_ticks():
    for low, high in [(0.0, 1.0), (29.93, 30.11), (1.0, 3.4), (-0.002, 0.0041), (12.0, 98.0)]:
        ticks = Axis(low, high, 0, 100).ticks()
        assert 4 <= len(ticks) <= 9
        assert all(low <= tick <= high for tick in ticks)


def test_the_frontier_holds_what_nothing_beats_in_both():
    a, b, c, d = row(0.6, 30.0), row(0.5, 31.0), row(0.4, 29.0), row(0.3, 29.5)
    assert _frontier([a, b, c, d]) == [b, d]


def test_a_failure_far_below_does_not_press_the_others_together():
    rows = [row(0.5, 30.0, m=0.1), row(0.4, 29.5, m=0.2), row(0.3, 2.0, pictures=1, m=0.3)]
    _, score = _axes(result(rows, rows[0]), rows[:2], top=0)
    assert score(29.5) - score(30.0) > 100  # pixels


@pytest.mark.parametrize("scores", [[30.0], [30.0, 30.0], [0.0, 0.0], [29.0, 31.0, -100.0]])
def test_it_is_drawn_whatever_the_scores(scores):
    rows = [row(0.5 - 0.1 * i, score, m=0.1 * i) for i, score in enumerate(scores)]
    drawn = numpy.asarray(draw(result(rows, rows[0]), "Tiny", []))
    orange = [int(CHOSEN[i : i + 2], 16) for i in (1, 3, 5)]
    assert (abs(drawn.astype(int) - orange).max(axis=2) < 8).sum() > 100


def test_examples_of_any_shape_and_long_prompts_fit():
    tall = Image.new("RGB", (64, 128), "#00ff00")
    rows = [row(0.5, 30.0)]
    stock = row(1.0, 30.5)
    drawn = draw(result(rows, rows[0], stock), "Tiny", [Example("a long prompt " * 30, tall, tall)] * 6)
    green = (abs(numpy.asarray(drawn).astype(int) - [0, 255, 0]).max(axis=2) < 8).sum(axis=1) > 0
    assert green.sum() > 2 * 400 and not green[-20:].any()


def test_the_table_and_the_document_hold_every_row_and_every_note():
    rows = [row(0.5, 30.0, m=0.1), row(0.4, 29.5, pictures=1, error=None, m=0.2)]
    found = result(rows, rows[0], row(1.0, 30.5))
    lines = markdown(found).splitlines()
    assert lines[2].startswith("| **chosen** | 20 | 1 | 0 | 1 | 0 | 0.1 | 2.00 | 1.50 | 8 | 30.00 ± 0.10 |")
    assert lines[4].startswith("| stock |") and lines[-1] == "something to know"
    assert len(document(found)["rows"]) == 2
    assert document(found)["gain_over_stock"] == {"mean": -0.2, "standard_error": 0.1}
