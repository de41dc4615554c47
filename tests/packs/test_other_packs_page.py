"""The page that the tests of other packs write."""

import pytest
from other_packs_page import INTRODUCTION, Page

from composition import COLUMNS, CUT, DEEP, Cell, Row
from other_packs import Pack

ROW = Row("a node", "", without_effect={DEEP: "It does nothing there."})
PACK, OTHER = (Pack(f"{name}/pack", "abc", (ROW,), has=name) for name in ("someone", "another"))


@pytest.fixture
def page():
    found = Page([PACK])
    for column in COLUMNS:
        if column not in ROW.without_effect:
            found.add(PACK, Cell(ROW, column, "exact"))
    return found


def test_a_part_names_pack_commit_and_what_came_of_each_technique(page):
    written = page.together_with("")
    assert written.startswith(INTRODUCTION)
    assert "## [someone/pack](https://github.com/someone/pack)\n\nCommit abc, ComfyUI " in written
    assert "| a node | exact | no effect [1] | exact | exact | exact |" in written
    assert written.endswith("\n1. It does nothing there.\n")


def test_the_parts_of_other_packs_stay_and_that_of_this_one_is_replaced(page):
    before = page.together_with("").replace("someone", "another").replace("abc", "old")
    both = page.together_with(before)
    assert both.count("## [") == 2 and both.index("another/pack") < both.index("someone/pack")
    assert "Commit old" in both and "Commit abc" in both
    assert page.together_with(both) == both


def test_a_pack_with_a_cell_missing_is_not_written():
    page = Page([OTHER])
    page.add(OTHER, Cell(ROW, CUT, "exact"))
    assert page.together_with("") == INTRODUCTION
