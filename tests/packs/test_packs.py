"""Nodes of packs of other people, each with each technique, where their folders are named by --pack."""

import control_packs
import graph_packs
import guidance_packs
import pytest

from composition import COLUMNS, cell

PACKS = [*control_packs.PACKS, *guidance_packs.PACKS, *graph_packs.PACKS]
THERE = [pack for pack in PACKS if pack.is_loaded]


CELLS = [
    pytest.param(row, column, id=f"{row.name}-{column}")
    for pack in THERE
    for row in pack.rows
    for column in COLUMNS
    if column not in row.left_out
]


@pytest.mark.parametrize(("row", "column"), CELLS)
def test_a_node_of_another_pack_and_a_technique_together(row, column):
    cell(row, column)
