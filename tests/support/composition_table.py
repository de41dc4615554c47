"""Tables of what PostDiff composes with, from cells that the tests have computed; docs/composes_with.md is one."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import comfyui_version
import torch

from compare import TOLERANCE
from composition import COLUMNS, ROWS, TOGETHER, Cell, Row

STATES = ("exact", "runs", "refused", "no effect")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "composes_with.md"

INTRODUCTION = """\
# What PostDiff composes with

Written by `python dev.py test --full tests/host/test_matrix.py` on {date} with ComfyUI {host} and torch {torch}:
{cells} combinations, each of them a test that fails if what stands here stops being true. The nodes are ComfyUI's own,
the networks small and of random weights.

- **exact**: the latent equals that of a run in which everything is computed and what the techniques reuse is then put
  in its place (within rounding: {tolerance:g} of the largest value, more in fp16 and bf16; fully where there is nothing
  to leave out), the multiply-accumulates executed are those planned (not counted where the network is compiled), and
  taking either partner away changes the latent.
- **runs**: the same without that reference; the note says why there is none.
- **refused**: the technique cannot act there, and says why. A node that cannot act on the *model* stops the run with an
  error that names what to use instead: bypass it. What only the *run* does not allow (a latent that is already noisy, a
  video's, a guider of three prompts) is computed in full, with a note. Where all techniques are together, the node that
  refuses is left out.

All together they have the switch `matched`, mixed resolution alone has `paper`.
"""


class Table:
    """Cells of these rows."""

    def __init__(self, rows: Sequence[Row] = tuple(ROWS.values())) -> None:
        self.rows = rows
        self._cells: dict[tuple[str, str], Cell] = {}
        self._notes: list[str] = []

    def add(self, cell: Cell) -> None:
        self._cells[cell.row.name, cell.column] = cell

    def is_complete(self) -> bool:
        return len(self._cells) == sum(len(COLUMNS) - len(row.without_effect) for row in self.rows)

    def write(self) -> None:
        PAGE.write_text(self.page(), encoding="utf-8")

    def page(self) -> str:
        """The whole page as Markdown."""
        parts = [
            INTRODUCTION.format(
                date=datetime.date.today().isoformat(),
                host=comfyui_version.__version__,
                torch=torch.__version__,
                cells=len(self._cells),
                tolerance=TOLERANCE,
            )
        ]
        for group, rows in groupby(self.rows, key=lambda row: row.group):
            parts.append(f"## {group}\n\n{self.of(rows)}\n")
        return "\n".join([*parts, self.notes]) + "\n"

    @property
    def notes(self) -> str:
        """What the numbers in brackets stand for, in the tables made so far."""
        return "\n".join(f"{number}. {note}" for number, note in enumerate(self._notes, start=1))

    def of(self, rows: Iterable[Row]) -> str:
        """A table of these rows, those of one line together."""
        lines = [["", *COLUMNS], ["---"] * (1 + len(COLUMNS))]
        for line, together in groupby(rows, key=lambda row: row.line or row.name):
            together = list(together)
            lines.append([line, *(self._entry([self._cell(row, column) for row in together]) for column in COLUMNS)])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _cell(self, row: Row, column: str) -> Cell:
        if column in row.without_effect:
            return Cell(row, column, "no effect")
        return self._cells[row.name, column]

    def _entry(self, cells: list[Cell]) -> str:
        worst = max(cells, key=lambda cell: STATES.index(cell.state))
        notes = [self._number(note) for note in self._notes_of(worst)]
        return worst.state + "".join(f" [{number}]" for number in notes)

    def _notes_of(self, cell: Cell) -> list[str]:
        notes = [f"{technique}: {reason}" for technique, reason in cell.reasons.items()]
        if cell.state == "no effect":
            notes.append(cell.row.without_effect[cell.column])
        if cell.state == "runs":
            notes.append(cell.row.not_compared[cell.column])
        if cell.column != TOGETHER and cell.column in cell.row.idle:
            notes.append("There is nothing to leave out: the latent is the stock one.")
        return notes

    def _number(self, note: str) -> int:
        if note not in self._notes:
            self._notes.append(note)
        return self._notes.index(note) + 1
