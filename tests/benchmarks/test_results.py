"""Reading a table's figures off measured points."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _results import error_at


def test_the_error_lies_straight_between_two_points():
    assert error_at([(1.0, 0.1), (3.0, 0.5)], 2.0) == pytest.approx(0.3)


def test_a_point_that_saves_more_and_errs_less_hides_others():
    assert error_at([(1.5, 0.9), (2.0, 0.2), (3.0, 0.4)], 1.6) == pytest.approx(0.2)


def test_beyond_the_cheapest_point_nothing_is_claimed():
    assert error_at([(1.5, 0.1), (2.0, 0.2)], 2.5) is None
