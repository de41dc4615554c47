"""What the trained denoiser draws wrong is found once, kept, and shown more often."""

import numpy as np
import pytest

from postdiff.embedded_model.loader import WEIGHTS
from postdiff.embedded_model.training import weak
from postdiff.embedded_model.training.captions import ONE_OBJECT, TWO_OBJECTS, random_prompt
from postdiff.embedded_model.training.config import STYLES, WeakIcons, concepts
from postdiff.embedded_model.training.weak import BATCH, chances, judge_every_icon

PLAN = WeakIcons(pictures=2, weight=6.0)
NAMES = [concept.name for concept in concepts()]
PICTURES = PLAN.pictures * len(NAMES) * len(STYLES)


def test_an_icon_is_shown_the_more_often_the_more_often_it_was_wrong():
    right = np.ones((PLAN.pictures, len(NAMES), len(STYLES)))
    right[:, 0, 0] = right[1, 1, 0] = 0
    first, second = (chances(PLAN, right)[style] for style in STYLES)
    assert first[:3] / first[2] == pytest.approx([6, 3.5, 1])
    assert second == pytest.approx(np.full(len(NAMES), 1 / len(NAMES)))
    assert [first.sum(), second.sum()] == pytest.approx([1, 1])


def test_prompts_of_one_and_of_two_follow_the_chances():
    only = dict.fromkeys(STYLES, np.eye(len(NAMES))[[3, 5]].mean(axis=0))
    rng = np.random.default_rng(0)
    shown = [random_prompt(kind, NAMES, rng, only).names for kind in (ONE_OBJECT, TWO_OBJECTS) for _ in range(20)]
    assert {name for names in shown for name in names} == {NAMES[3], NAMES[5]}


class Painter:
    """Stands for the model: draws white pictures until it is stopped."""

    def __init__(self, stopped_after: int):
        self.left, self.asked = stopped_after, []

    def __call__(self, model, prompts, seed, steps):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked.append(seed)
        return np.ones((len(prompts), 64, 64, 3), np.float32)


def test_a_stopped_search_goes_on_with_the_pictures_it_was_at_and_a_finished_one_draws_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(weak, "load_embedded_model", lambda weights: None)
    painters = [Painter(stopped_after=3), Painter(stopped_after=PICTURES), Painter(stopped_after=0)]
    monkeypatch.setattr(weak, "draw", painters[0])
    with pytest.raises(KeyboardInterrupt):
        judge_every_icon(PLAN, WEIGHTS, tmp_path)
    found = []
    for painter in painters[1:]:
        monkeypatch.setattr(weak, "draw", painter)
        found.append(judge_every_icon(PLAN, WEIGHTS, tmp_path))
    seeds = [seed for painter in painters for seed in painter.asked]
    assert seeds == [PLAN.first_seed + first for first in range(0, PICTURES, BATCH)]
    assert found[0].shape == (PLAN.pictures, len(NAMES), len(STYLES)) and set(found[0].flat) <= {0, 1}
    assert np.array_equal(*found)
