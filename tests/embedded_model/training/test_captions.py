"""Prompts, and which of them the model never sees."""

import json

import numpy as np
import pytest

from postdiff.embedded_model.architecture import TEXT_ENCODER
from postdiff.embedded_model.training.captions import (
    ON_A_BACKGROUND,
    ONE_OBJECT,
    TWO_OBJECTS,
    Prompt,
    held_out,
    held_out_file,
    random_prompt,
    read_held_out,
    training_caption,
    vocabulary,
    write_held_out,
)
from postdiff.embedded_model.training.config import (
    BACKGROUNDS,
    CONCEPTS,
    SIDEWAYS,
    STYLES,
    Captions,
    Recipe,
    caption_name,
    concepts,
)
from postdiff.embedded_model.training.pictures import draw_prompt

RECIPE = Recipe()
NAMES = [concept.name for concept in concepts()]


@pytest.mark.parametrize(
    ("prompt", "caption", "kind"),
    [
        (Prompt("noto", ("red apple",)), "noto red apple", ONE_OBJECT),
        (Prompt("fluent", ("fox",), "blue"), "fluent fox on a blue background", ON_A_BACKGROUND),
        (Prompt("noto", ("fox", "red apple")), "noto fox and red apple", TWO_OBJECTS),
    ],
)
def test_a_prompt_and_its_caption_say_the_same(prompt, caption, kind):
    assert str(prompt) == caption
    assert Prompt.parse(caption) == prompt
    assert prompt.kind == kind


def test_there_are_300_concepts_with_distinct_names_and_icons():
    listed = concepts()
    assert len(listed) >= 300
    assert len({concept.name for concept in listed}) == len({concept.icon for concept in listed}) == len(listed)


def test_no_name_reads_like_the_words_between_names():
    assert all(Prompt.parse(f"noto {name}").names == (name,) for name in NAMES)
    assert not {"and", "background"} & {word for name in NAMES for word in name.split()}


def test_icons_that_face_sideways_are_icons_of_the_recipe():
    assert set(SIDEWAYS.split()) < {icon for icons in CONCEPTS.values() for icon in icons.split()}


def test_caption_names_are_what_a_person_would_type():
    assert caption_name("red-apple", "food") == "red apple"
    assert caption_name("cat-face", "animals") == "cat"
    assert caption_name("cold-face", "faces") == "cold face"
    assert caption_name("locked", "objects") == "lock"


def test_every_word_of_every_prompt_is_in_the_vocabulary_and_every_prompt_fits_the_text_encoder():
    words = vocabulary()
    assert words == sorted(set(words))
    longest = sorted(NAMES, key=lambda name: len(name.split()))[-2:]
    for prompt in [Prompt("noto", tuple(longest)), *(Prompt("noto", (longest[-1],), colour) for colour in BACKGROUNDS)]:
        assert set(str(prompt).split()) <= set(words)
        assert len(str(prompt).split()) + 3 <= TEXT_ENCODER["max_position_embeddings"]  # start, end, a strange word


def test_a_twentieth_of_the_combinations_of_either_kind_is_held_out():
    prompts = held_out(RECIPE)
    on_background = sum(prompt.kind == ON_A_BACKGROUND for prompt in prompts)
    two_objects = sum(prompt.kind == TWO_OBJECTS for prompt in prompts)
    assert on_background >= 0.05 * len(STYLES) * len(NAMES) * len(BACKGROUNDS)
    assert two_objects >= 0.05 * len(STYLES) * len(NAMES) * (len(NAMES) - 1)
    assert on_background + two_objects == len(prompts)


def test_two_held_out_objects_are_held_out_in_either_order_and_style():
    prompts = held_out(RECIPE)
    for prompt in (prompt for prompt in prompts if prompt.kind == TWO_OBJECTS):
        assert all(Prompt(style, prompt.names[::-1]) in prompts for style in STYLES)


def test_held_out_prompts_are_drawn_at_random_but_never_trained_on():
    rng = np.random.default_rng(0)
    anything = [random_prompt(kind, NAMES, rng) for kind in (ON_A_BACKGROUND, TWO_OBJECTS) for _ in range(400)]
    trained = [draw_prompt(RECIPE, rng) for _ in range(800)]
    assert held_out(RECIPE) & set(anything)
    assert not held_out(RECIPE) & set(trained)
    assert {prompt.kind for prompt in trained} == {ONE_OBJECT, ON_A_BACKGROUND, TWO_OBJECTS}


def test_the_list_of_held_out_captions_can_be_read_back(tmp_path):
    write_held_out(RECIPE, held_out_file(tmp_path))
    listed = read_held_out(tmp_path)
    assert json.loads((tmp_path / "held_out.json").read_text(encoding="utf-8")) == listed
    captions = [caption for kind in (ON_A_BACKGROUND, TWO_OBJECTS) for caption in listed[kind]]
    assert {Prompt.parse(caption) for caption in captions} == held_out(RECIPE)


def test_captions_are_sometimes_empty_without_style_or_with_a_strange_word():
    rng, prompt = np.random.default_rng(0), Prompt("noto", ("red apple",))
    drawn = {training_caption(prompt, Captions(), rng) for _ in range(2000)}
    assert {"", "noto red apple", "red apple"} <= drawn
    assert any(text.split() == ["noto", "red", "apple", "unheard"] for text in drawn)
