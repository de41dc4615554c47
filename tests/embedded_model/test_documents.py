"""What the documents say of the shipped model is true of its files."""

import json
import re

import pytest

import pack
from postdiff.embedded_model.training.captions import Prompt

FOLDER = pack.ROOT / "embedded_model"
CONCEPTS = json.loads((FOLDER / "concepts.json").read_text(encoding="utf-8"))
CARD = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
HELP = (pack.ROOT / "web" / "docs" / "PostDiffEmbeddedModel.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [CARD, HELP], ids=["model card", "help page"])
def test_every_prompt_shown_as_an_example_was_trained(text):
    examples = [Prompt.parse(each) for each in re.findall(r'["`]((?:noto|fluent) [a-z0-9 -]+)["`]', text)]
    assert len({example.kind for example in examples}) == 3
    assert [name for example in examples for name in example.names if name not in CONCEPTS] == []


def test_the_help_page_lists_every_name_under_its_category():
    listed = re.findall(r"^\*\*(\w+)\*\*: ([^.]+)\.", HELP, re.MULTILINE)
    assert {name: category.lower() for category, names in listed for name in " ".join(names.split()).split(", ")} == {
        name: about["category"] for name, about in CONCEPTS.items()
    }


def test_the_model_card_counts_the_concepts():
    assert f"The {len(CONCEPTS)} names" in CARD
    assert f"{len(CONCEPTS)} concepts in two styles" in CARD
