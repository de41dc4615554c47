"""What the documents say of the shipped model is true of its files."""

import json
import re

import pytest

import pack

FOLDER = pack.ROOT / "embedded_model"
CONCEPTS = json.loads((FOLDER / "concepts.json").read_text(encoding="utf-8"))
CARD = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
HELP = (pack.ROOT / "web" / "docs" / "PostDiffEmbeddedModel.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [CARD, HELP], ids=["model card", "help page"])
def test_every_prompt_shown_as_an_example_was_trained(text):
    examples = re.findall(r'["`](noto|fluent) ([a-z0-9 ]+)["`]', text)
    assert examples
    assert [name for _, name in examples if name not in CONCEPTS] == []


def test_the_model_card_counts_the_concepts():
    assert f"The {len(CONCEPTS)} names" in CARD
    assert f"{len(CONCEPTS)} concepts in two styles" in CARD
