"""The words of the nodes: English as the nodes say it, Chinese and Japanese for each of them."""

import json

import pytest

import locales

LANGUAGES = ["en", "zh", "ja"]


def words(language: str) -> dict:
    return json.loads((locales.FOLDER / language / "nodeDefs.json").read_text(encoding="utf-8"))


def texts(node: dict) -> list[str]:
    """Every description and tooltip, in order."""
    return [text for key in sorted(node) for text in (texts(node[key]) if isinstance(node[key], dict) else [node[key]])]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_output_is_covered_and_no_key_is_stale(language):
    assert locales.differences(locales.from_schemas(), words(language)) == []


def test_english_is_what_the_nodes_say():
    assert words("en") == locales.from_schemas(), "run `python dev.py locales` and look at the other languages"


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_descriptions_and_tooltips_are_translated(language):
    for node, english in words("en").items():
        left = [text for text in texts(words(language)[node]) if " " in text and text in texts(english)]
        assert left == [], f"{language}, {node}"
