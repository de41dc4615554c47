"""Rendered icons: kept between runs, and rendered anew when the recipe names others."""

import numpy as np
import pytest

from postdiff.embedded_model.training import icons

BODY = '<rect width="16" height="16" fill="{}"/>'
ICON_SET = {
    "width": 16,
    "height": 16,
    "icons": {
        "leaf": {"body": BODY.format("#00ff00")},
        "coal": {"body": BODY.format("#000000")},
        "hand-light-skin-tone": {"body": BODY.format("#ffffff")},
    },
}


@pytest.fixture
def rendered(monkeypatch):
    """Names in the order they were rendered; a picture is its name's length, everywhere."""
    names = []

    def render(_, name, side):
        names.append(name)
        return np.full((side, side, 4), len(name), np.uint8)

    monkeypatch.setattr(icons, "fetch_icon_set", lambda style, folder: ICON_SET)
    monkeypatch.setattr(icons, "render_icon", render)
    return names


def render(folder, names):
    icons.render_all(folder / "icons", folder / "downloads", names, concept_side=4, corpus_side=4)


def test_concepts_and_every_shared_icon_are_rendered_in_both_styles(rendered, tmp_path):
    render(tmp_path, ["leaf"])
    assert rendered == ["leaf"] * 2 + ["coal"] * 2 + ["leaf"] * 2
    assert np.load(tmp_path / "icons" / "concepts.npy").shape == (1, 2, 4, 4, 4)
    assert np.load(tmp_path / "icons" / "corpus.npy").shape == (2, 2, 4, 4, 4)  # without skin tones


def test_rendered_icons_are_kept(rendered, tmp_path):
    render(tmp_path, ["leaf"])
    rendered.clear()
    render(tmp_path, ["leaf"])
    assert rendered == []


def test_other_concepts_are_rendered_anew(rendered, tmp_path):
    render(tmp_path, ["leaf"])
    rendered.clear()
    render(tmp_path, ["coal", "leaf"])
    assert rendered == ["coal", "coal", "leaf", "leaf"]
    assert np.load(tmp_path / "icons" / "concepts.npy").shape[0] == 2


def test_an_icon_is_composed_over_a_colour():
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [255, 0, 0, 51]]], np.uint8)
    assert icons.over_background(rgba, (0, 0, 255)).tolist() == [[[255, 0, 0], [0, 0, 255], [51, 0, 204]]]
