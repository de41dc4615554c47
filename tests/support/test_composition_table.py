"""The page that the full run of the matrix writes."""

import pytest

import composition_table
from composition import COLUMNS, CUT, DEEP, ROWS, TOGETHER, Cell

REASON = "Deep cache cannot act on it."


@pytest.fixture
def table():
    full = composition_table.Table()
    for row in ROWS.values():
        for column in COLUMNS:
            refused = row.name in ("PixArt-alpha", "PixArt-sigma") and column in (DEEP, TOGETHER)
            state = "refused" if refused and column == DEEP else "exact"
            full.add(Cell(row, column, state, {DEEP: REASON} if refused else {}))
    return full


def line(page, name):
    (found,) = [each for each in page.splitlines() if each.startswith(f"| {name} |")]
    return [entry.strip() for entry in found.strip("|").split("|")][1:]


def test_a_refusal_is_shown_with_its_reason_once(table):
    page = table.page()
    (note,) = [each for each in page.splitlines() if REASON in each]
    number, _, text = note.partition(". ")
    assert text == f"{DEEP}: {REASON}"
    assert line(page, "PixArt-alpha") == ["exact", f"refused [{number}]", "exact", "exact", f"exact [{number}]"]
    assert line(page, "PixArt-sigma") == line(page, "PixArt-alpha")


def test_a_sampler_is_as_good_as_with_its_worst_scheduler(table):
    schedulers = [row for row in ROWS.values() if row.line == "heun"]
    assert len(schedulers) > 1
    table.add(Cell(schedulers[-1], CUT, "refused", {CUT: "It cannot be cut."}))
    entries = dict(zip(COLUMNS, line(table.page(), "heun"), strict=True))
    assert entries.pop(CUT).startswith("refused")
    assert set(entries.values()) == {"exact"}


def test_a_table_with_a_cell_missing_is_not_complete(table):
    assert table.is_complete()
    partial = composition_table.Table()
    partial.add(Cell(ROWS["LoRA"], CUT, "exact"))
    assert not partial.is_complete()
