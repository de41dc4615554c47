"""The search on invented scores: it finds the best at a fraction of the cost, and can stop at any time."""

import contextlib
import itertools
import random
import statistics

import pytest

from postdiff.postdiff_core.calibrate.search import Rung, Search, difference, rungs


class Stop(BaseException):
    pass


def invented(candidates, pictures, noise, seed=0):
    """score(candidate, picture): candidate c is worth -c, pictures differ, and so does what candidates make of them."""
    generator = random.Random(seed)
    of_picture = [generator.gauss(0, 5) for _ in range(pictures)]
    table = {
        (candidate, picture): -candidate + of_picture[picture] + generator.gauss(0, noise)
        for candidate, picture in itertools.product(range(candidates), range(pictures))
    }
    return lambda candidate, picture: table[candidate, picture]


def searched(cost, pictures, score):
    search = Search(cost, pictures)
    search.run(score)
    return search


def test_half_the_candidates_stay_and_draw_twice_as_many_pictures():
    assert rungs(20, 12) == [Rung(20, 1), Rung(10, 2), Rung(5, 4), Rung(3, 8), Rung(2, 12)]
    assert rungs(8, 90)[-2:] == [Rung(2, 16), Rung(2, 20)], "the last two need no more"
    assert rungs(40, 20)[-1] == Rung(2, 20) and rungs(99, 20)[-1] == Rung(4, 20)
    assert rungs(84, 40)[-2:] == [Rung(3, 32), Rung(2, 32)], "no rung wants fewer pictures than the one before"
    assert rungs(1, 3) == [Rung(1, 1), Rung(1, 2), Rung(1, 3)]
    assert rungs(7, 1) == [Rung(7, 1)]


def test_without_noise_the_best_is_chosen_though_it_is_the_dearest():
    search = searched({c: 30.0 - c for c in range(24)}, 16, invented(24, 16, noise=0.0))
    assert search.choice() == 0


def test_it_measures_a_fraction_of_the_grid_and_nothing_twice():
    measured = []
    score = invented(64, 32, noise=1.0)
    search = Search({c: 1.0 for c in range(64)}, 32)
    search.run(lambda candidate, picture: measured.append((candidate, picture)) or score(candidate, picture))
    assert len(measured) == len(set(measured)) == search.measurements[0] == search.measurements[1]
    assert len(measured) < 64 * 32 / 8


def test_under_noise_the_choice_is_good_far_more_often_than_chance():
    good = sum(
        searched({c: 1.0 for c in range(24)}, 16, invented(24, 16, 3.0, seed)).choice() <= 3 for seed in range(50)
    )
    assert good >= 40  # of 50; by chance 8


def test_of_those_that_cannot_be_told_apart_the_cheapest_is_chosen():
    score = {0: [5, 4, 6, 5], 1: [5, 5, 5, 4.9], 2: [1, 1, 1, 1]}
    search = searched({0: 1.0, 1: 0.4, 2: 0.1}, 4, lambda candidate, picture: score[candidate][picture])
    assert search.choice() == 1


def test_a_cheaper_one_that_is_surely_worse_is_not_chosen():
    score = {0: [5, 4, 6, 5], 1: [4.5, 3.6, 5.4, 4.4]}
    search = searched({0: 1.0, 1: 0.4}, 4, lambda candidate, picture: score[candidate][picture])
    assert search.choice() == 0


def test_a_cheaper_one_that_was_dropped_is_not_chosen_however_uncertain_its_difference_is():
    score = {0: [5, 5, 5, 5], 1: [5, 4.9, 4.9, 4.9], 2: [5, 3, 5, 5], 3: [1, 1, 1, 1], 4: [1, 1, 1, 1]}
    cost = {0: 1.0, 1: 0.9, 2: 0.1, 3: 0.8, 4: 0.8}
    search = searched(cost, 4, lambda candidate, picture: score[candidate][picture])
    assert len(search.scores[2]) == 2
    dropped = search.difference(0, 2)
    assert dropped is not None and dropped.mean <= dropped.error
    assert search.choice() == 0


def test_differences_are_taken_picture_by_picture():
    one, other = {0: 10.0, 1: 20.0, 2: 30.0, 5: 1.0}, {0: 9.0, 1: 18.0, 2: 29.0, 4: 7.0}
    gains = [1.0, 2.0, 1.0]
    found = difference(one, other)
    assert (found.mean, found.error) == pytest.approx((4 / 3, statistics.stdev(gains) / 3**0.5))
    assert difference({0: 1.0}, {0: 2.0}) is None


@pytest.mark.parametrize("after", range(0, 60, 7))
def test_left_at_any_time_it_gives_the_best_so_far_and_goes_on_to_the_same_end(after):
    score, kept = invented(12, 8, noise=1.0), {}
    whole = searched({c: 1.0 for c in range(12)}, 8, score)

    def measure(candidate, picture):
        if (candidate, picture) not in kept:
            if len(kept) == after:
                raise Stop
            kept[candidate, picture] = score(candidate, picture)
        return kept[candidate, picture]

    search = Search({c: 1.0 for c in range(12)}, 8)
    with contextlib.suppress(Stop):
        search.run(measure)
    assert search.choice() is None if after == 0 else search.choice() in {candidate for candidate, _ in kept}
    after = None  # nothing stops it from here on
    assert searched({c: 1.0 for c in range(12)}, 8, measure).scores == whole.scores


def test_what_is_left_to_do_falls_to_nothing():
    costs = []
    search = Search({c: 1.0 + c for c in range(10)}, 8)
    search.run(invented(10, 8, 1.0), lambda: costs.append(search.remaining_cost()))
    assert costs[0] > 0 and costs[-1] == 0


@pytest.mark.parametrize(("cost", "pictures"), [({}, 3), ({1: 1.0}, 0)])
def test_nothing_to_search_is_said(cost, pictures):
    with pytest.raises(ValueError, match="nothing to search"):
        Search(cost, pictures)
