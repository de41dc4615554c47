"""docs/other_packs.md: what PostDiff composes with in packs of other people, a part for each."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

import comfyui_version

from composition import Cell
from composition_table import Table
from other_packs import Pack

PATH = Path(__file__).resolve().parents[2] / "docs" / "other_packs.md"
INTRODUCTION = """\
# Packs of other people

Their own nodes, at the commits named, each with each technique and all together, written by

    python dev.py test --full tests/packs --pack=FOLDER --pack=FOLDER

for every pack named whose tests all pass. What the words mean is told in
[What PostDiff composes with](composes_with.md); "no effect" says that the other pack's node does nothing there. The
models are small and of random weights, as are ControlNets, adapters and motion modules. What does not work beside
PostDiff stands in the [README](../README.md#beside-other-packs).
"""


class Page:
    """Parts of the page, by repository."""

    def __init__(self, packs: Sequence[Pack]) -> None:
        self._tables = {pack: Table(pack.rows) for pack in packs}

    def add(self, pack: Pack, cell: Cell) -> None:
        self._tables[pack].add(cell)

    def write(self) -> None:
        """Put the parts of complete packs in the place of those that stand there; the others stay."""
        PATH.write_text(self.together_with(PATH.read_text(encoding="utf-8") if PATH.exists() else ""), encoding="utf-8")

    def together_with(self, page: str) -> str:
        """The page with the parts of complete packs."""
        parts = dict(re.findall(r"^## \[(.*?)\](.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
        parts |= {pack.repository: _part(pack, table) for pack, table in self._tables.items() if table.is_complete()}
        listed = [f"## [{name}]{parts[name].rstrip()}\n" for name in sorted(parts, key=str.lower)]
        return "\n".join([INTRODUCTION, *listed])


def _part(pack: Pack, table: Table) -> str:
    link = f"(https://github.com/{pack.repository})"
    tested = f"Commit {pack.commit}, ComfyUI {comfyui_version.__version__}, {datetime.date.today().isoformat()}."
    return "\n\n".join([link, tested, table.of(table.rows), table.notes])
