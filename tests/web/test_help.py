"""The help page of every node: complete, with its pictures, and shown by the canvas."""

from __future__ import annotations

import re

import pytest
from browser import Canvas
from nodes import KSampler

import locales
from pack import ROOT

DOCS = ROOT / "web" / "docs"
NODES = locales.from_schemas()
STOCK = {*KSampler.INPUT_TYPES()["required"], "latent"}


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_help_page_that_names_its_settings_and_its_limits(node: str) -> None:
    text = (DOCS / f"{node}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {NODES[node]['display_name']}".partition(" (patch)")[0])
    missing = [
        name
        for name in NODES[node].get("inputs", {}).keys() - STOCK
        if f"`{name}`" not in text and f"## {name}" not in text
    ]
    assert missing == []
    assert "## When not to" in text
    assert re.search(r"^!\[[^\]]+\]\(images/", text, re.MULTILINE), "no picture"


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md")))
def test_help_pages_belong_to_nodes_and_their_pictures_exist(page: str) -> None:
    assert page in NODES
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", (DOCS / f"{page}.md").read_text(encoding="utf-8")):
        assert (DOCS / picture).is_file(), picture


def test_the_canvas_shows_the_help_page_with_its_picture(canvas: Canvas) -> None:
    canvas.load({"1": {"class_type": "CFGCutoff", "inputs": {"start_percent": 0.75}}})
    canvas.show("1")
    canvas.call("select", ["1"])
    canvas.page.get_by_test_id("info-button").click()
    canvas.page.get_by_role("heading", name="When not to use it").wait_for()
    pictures = "[...document.images].filter((each) => each.src.endsWith('docs/images/CFGCutoff.png'))"
    canvas.wait_until(f"() => {pictures}.some((each) => each.naturalWidth > 0)")
