"""Nodes of packs of other people, each with each technique, where their folders are named by --pack."""

import control_packs
import guidance_packs
import pytest

from composition import COLUMNS, cell

PACKS = [*control_packs.PACKS, *guidance_packs.PACKS]
THERE = [pack for pack in PACKS if pack.is_loaded]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", [row for pack in THERE for row in pack.rows], ids=lambda row: row.name)
def test_a_node_of_another_pack_and_a_technique_together(row, column):
    cell(row, column)
