"""Nodes of packs of other people, each with each technique, where their folders are named by --pack.

With --full, docs/other_packs.md is written of the packs named: those of whose cells none fails.
"""

import control_packs
import graph_packs
import guidance_packs
import other_packs_page
import pytest

from composition import COLUMNS, cell

PACKS = [*control_packs.PACKS, *graph_packs.PACKS, *guidance_packs.PACKS]
THERE = {row: pack for pack in PACKS if pack.is_loaded for row in pack.rows}
CELLS = [
    pytest.param(row, column, id=f"{row.name} x {column}")
    for row in THERE
    for column in COLUMNS
    if column not in row.without_effect
]


@pytest.fixture(scope="module")
def page(request):
    """Collects cells, and writes those of complete packs."""
    found = other_packs_page.Page(list(THERE.values()))
    yield found
    if request.config.getoption("--full"):
        found.write()


@pytest.mark.parametrize(("row", "column"), CELLS)
def test_a_node_of_another_pack_and_a_technique_together(row, column, page):
    page.add(THERE[row], cell(row, column))
