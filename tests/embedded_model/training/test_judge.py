"""The judge of pictures: what it disregards, and what it tells apart."""

import numpy as np
import pytest

from postdiff.embedded_model.training.captions import Prompt
from postdiff.embedded_model.training.judge import (
    Judge,
    crop_to_foreground,
    foreground_centre,
    share,
    wilson_interval,
)

RED, BLUE, WHITE, TINT = (0.86, 0.1, 0.1), (0.1, 0.1, 0.86), (1, 1, 1), (0.51, 0.69, 1)


def disc(colour, size=40):
    """A disc with a hole, as a boolean mask and a colour."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(x, y) / size * 2
    return (radius < 1) & (radius > 0.3), colour


def flag(colour, size=40):
    """A shape that its mirror image is not."""
    mask = np.zeros((size, size), bool)
    mask[:, : size // 5] = mask[: size // 2] = True
    return mask, colour


def picture(*shapes, background=WHITE, side=128):
    """Shapes at (row, column) on a plain background."""
    canvas = np.full((side, side, 3), background, np.float32)
    for (mask, colour), row, column in shapes:
        canvas[row : row + len(mask), column : column + len(mask)][mask] = colour
    return canvas


@pytest.fixture(scope="module")
def judge():
    pairs = [("noto", "red ring"), ("noto", "blue ring"), ("noto", "flag")]
    shapes = disc(RED, 100), disc(BLUE, 100), flag(RED, 100)
    return Judge.from_pictures([picture((shape, 14, 14)) for shape in shapes], pairs, mirrored=["flag"])


def test_position_size_and_background_are_disregarded():
    small = crop_to_foreground(picture((disc(RED, 48), 3, 70), background=TINT))
    large = crop_to_foreground(picture((disc(RED, 96), 30, 4)))
    assert np.abs(small - large).mean() < 0.03


def test_the_nearest_training_picture_names_the_concept(judge):
    assert judge.nearest(picture((disc((0.7, 0.25, 0.3)), 0, 0))) == ("noto", "red ring")
    assert judge.right(picture((disc(BLUE), 60, 20)), Prompt("noto", ("blue ring",)))
    assert not judge.right(picture((disc(BLUE), 60, 20)), Prompt("noto", ("red ring",)))


def test_a_mirror_image_counts_for_a_concept_that_may_face_either_way(judge):
    mask, colour = flag(RED)
    assert judge.nearest(picture(((mask[:, ::-1], colour), 10, 10))) == ("noto", "flag")


def test_an_object_at_the_border_does_not_hide_the_background(judge):
    shown = judge.nearest(picture((disc(BLUE, 96), 0, 0), background=TINT))
    assert shown == ("noto", "blue ring")


@pytest.mark.parametrize(
    "places",
    [((8, 8), (70, 80)), ((20, 10), (60, 75)), ((4, 40), (80, 50)), ((4, 26), (4, 64))],
    ids=["apart", "beside", "above", "touching the middle"],
)
def test_two_objects_are_judged_each_for_itself_in_either_order(judge, places):
    (first, second), prompt = places, Prompt("noto", ("blue ring", "red ring"))
    assert judge.right(picture((disc(BLUE), *first), (disc(RED), *second)), prompt)
    assert judge.right(picture((disc(RED), *first), (disc(BLUE), *second)), prompt)
    assert not judge.right(picture((disc(RED), *first), (disc(RED), *second)), prompt)


def test_a_picture_of_one_object_does_not_show_two(judge):
    assert not judge.right(picture((disc(BLUE), 8, 8)), Prompt("noto", ("blue ring", "red ring")))


def test_an_empty_picture_can_be_judged(judge):
    empty = picture()
    assert crop_to_foreground(empty).min() == 1
    assert foreground_centre(empty) is None
    assert len(judge.shown(empty, objects=2)) == 2


def test_the_foregrounds_centre_is_given_in_shares_of_the_sides():
    assert foreground_centre(picture((disc(RED, 32), 0, 64), background=TINT)) == pytest.approx((0.125, 0.625))


def test_the_interval_of_a_share_is_wilsons():
    assert wilson_interval(80, 100) == pytest.approx((0.7112, 0.8666), abs=1e-4)
    assert share([True] * 80 + [False] * 20) == {"share": 0.8, "interval95": [0.7112, 0.8666], "n": 100}
