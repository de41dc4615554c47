"""What users combine PostDiff with, each with each technique: rows, columns and what a cell is are in composition.py.

Without --full, a sample: every row once, with all techniques together, and every sampler once, where the schedulers and
the techniques take turns. With --full every cell, and docs/composes_with.md is written from what came of them.
"""

from itertools import count, cycle

import pytest

import composition_table
from composition import COLUMNS, ROWS, SAMPLERS, TOGETHER, cell


def sample():
    """(row, column) of the cells that run without --full."""
    cells = {(row.name, TOGETHER) for row in ROWS.values() if row.group != SAMPLERS and not row.slow}
    by_sampler = {}
    for row in ROWS.values():
        if row.group == SAMPLERS:
            by_sampler.setdefault(row.line, []).append(row.name)
    turns = zip(by_sampler.values(), count(), cycle(COLUMNS), strict=False)
    return cells | {(names[turn % len(names)], column) for names, turn, column in turns}


def cells():
    taken = sample()
    for row in ROWS.values():
        for column in COLUMNS:
            marks = [] if (row.name, column) in taken else [pytest.mark.full]
            if row.slow:
                marks.append(pytest.mark.timeout(3600))  # a trace takes seconds on an idle core
            yield pytest.param(row, column, id=f"{row.name} x {column}", marks=marks)


@pytest.fixture(scope="module")
def table(request):
    """Collects cells; writes the table once every cell has been computed without a failure."""
    found = composition_table.Table()
    yield found
    if request.config.getoption("--full") and found.is_complete():
        found.write()


@pytest.mark.parametrize(("row", "column"), list(cells()))
def test_a_row_and_a_technique_together(row, column, table):
    table.add(cell(row, column))
