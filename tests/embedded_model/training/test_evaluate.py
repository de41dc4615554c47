"""The evaluation's counting, on pictures drawn by hand instead of by a model."""

import json

import numpy as np
import pytest

from postdiff.embedded_model.training.captions import (
    ON_A_BACKGROUND,
    ONE_OBJECT,
    TWO_OBJECTS,
    Prompt,
    held_out_file,
)
from postdiff.embedded_model.training.config import STYLES
from postdiff.embedded_model.training.evaluate import judge_run, judged_prompts, psnr, share, variety
from postdiff.embedded_model.training.judge import Judge

COLOURS = {"apple": (0.8, 0.1, 0.1), "sea": (0.1, 0.2, 0.8), "frog": (0.1, 0.6, 0.1)}
HELD_OUT = {
    ON_A_BACKGROUND: ["noto apple on a red background", "fluent frog on a blue background"],
    TWO_OBJECTS: ["noto apple and sea"],
}


def draw(names, corner=8):
    """A square of each name's colour."""
    picture = np.ones((64, 64, 3), np.float32)
    for i, name in enumerate(names):
        picture[corner : corner + 16, 8 + 32 * i : 24 + 32 * i] = COLOURS[name]
    return picture


@pytest.fixture
def folder(tmp_path):
    concepts = {name: {"category": "food" if name == "apple" else "others"} for name in COLOURS}
    (tmp_path / "concepts.json").write_text(json.dumps(concepts), encoding="utf-8")
    pairs = [(style, name) for name in COLOURS for style in STYLES]
    sheet = Judge.from_pictures([draw([name]) for _, name in pairs], pairs)
    sheet.save(tmp_path / "training_pictures.webp")
    return tmp_path


def test_a_model_without_held_out_captions_is_judged_on_its_concepts_alone(folder):
    assert judged_prompts(folder, 5) == {
        f"trained, {ONE_OBJECT}": [Prompt(style, (name,)) for name in COLOURS for style in STYLES]
    }


def test_trained_and_held_out_captions_of_every_kind_are_judged(folder):
    held_out_file(folder).write_text(json.dumps(HELD_OUT), encoding="utf-8")
    chosen = judged_prompts(folder, 4)
    assert [str(prompt) for prompt in chosen[f"held out, {TWO_OBJECTS}"]] == HELD_OUT[TWO_OBJECTS]
    assert len(chosen[f"held out, {ON_A_BACKGROUND}"]) == 2
    for kind in (ON_A_BACKGROUND, TWO_OBJECTS):
        trained = chosen[f"trained, {kind}"]
        assert len(trained) == 4
        assert all(prompt.kind == kind and str(prompt) not in HELD_OUT[kind] for prompt in trained)


def test_a_run_reports_shares_by_kind_and_category_and_what_was_missed(folder):
    prompts = {
        f"trained, {ONE_OBJECT}": [Prompt("noto", (name,)) for name in COLOURS],
        f"held out, {TWO_OBJECTS}": [Prompt("noto", ("apple", "sea"))],
    }

    def sample(caption: str, seed: int) -> np.ndarray:
        names = Prompt.parse(caption).names
        return draw(["sea"] if names == ("frog",) else names)

    result, pictures = judge_run(sample, Judge.shipped(folder), prompts, every=1, label="by hand")
    assert len(pictures) == 4
    assert result["groups"] == {
        f"trained, {ONE_OBJECT}": share([True, True, False]),
        f"held out, {TWO_OBJECTS}": share([True]),
    }
    assert result["trained"] == share([True, True, False])
    assert result["categories"] == {"food": share([True]), "others": share([True, False])}
    assert [miss["prompt"] for miss in result["missed"]] == ["noto frog"]
    assert result["missed"][0]["nearest"].endswith("sea")


def test_variety_measures_how_far_seeds_move_the_foreground():
    prompts = [Prompt("noto", ("apple",)), Prompt("noto", ("sea",))]

    def sample(caption: str, seed: int) -> np.ndarray:
        return draw(Prompt.parse(caption).names, corner=8 if seed % 2 else 40)

    moved = variety(sample, prompts, seeds=4)
    rows = np.array([8, 40, 8, 40]) / 64
    assert moved["centre_deviation"] == pytest.approx(rows.std(ddof=1) / 2, abs=1e-4)  # they move along one axis of two
    still = variety(lambda caption, seed: draw(["apple"]), prompts, seeds=3)
    assert still["centre_deviation"] == 0
    assert still["psnr_between_seeds"] == 100


def test_psnr_is_the_ratio_to_the_full_range():
    assert psnr(np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)) == pytest.approx(20)
