"""What users combine PostDiff with, each with each technique: rows, columns and what a cell is are in composition.py.

Without --full, a sample: every row once with all techniques together and once with a single one, where samplers and
schedulers take turns. With --full every cell, and docs/composes_with.md is written from what came of them.
"""

import pytest

import composition_table
from composition import COLUMNS, ROWS, SAMPLERS, TOGETHER, cell

SINGLE = [column for column in COLUMNS if column != TOGETHER]


def sample():
    """Each row other than the samplers in two columns, each sampler and each scheduler in one."""
    others = [row for row in ROWS.values() if row.group != SAMPLERS]
    cells = {(row.name, TOGETHER) for row in others}
    cells |= {(row.name, SINGLE[number % len(SINGLE)]) for number, row in enumerate(others)}
    lines = {}
    for row in ROWS.values():
        if row.group == SAMPLERS:
            lines.setdefault(row.line, []).append(row)
    for number, rows in enumerate(lines.values()):
        cells.add((rows[number % len(rows)].name, list(COLUMNS)[number % len(COLUMNS)]))
    return cells


def cells():
    taken = sample()
    for row in ROWS.values():
        for column in COLUMNS:
            marks = [] if (row.name, column) in taken else [pytest.mark.full]
            yield pytest.param(row, column, id=f"{row.name} x {column}", marks=marks)


@pytest.fixture(scope="module")
def table(request):
    """Collects cells; writes the table once every cell has been computed without a failure."""
    found = composition_table.Table()
    yield found
    if request.config.getoption("--full") and found.is_complete():
        found.write()


@pytest.mark.parametrize(("row", "column"), cells())
def test_a_row_and_a_technique_together(row, column, table):
    table.add(cell(row, column))
