"""How many rows of a batch each step of a run takes, and would take in a stock run, for the report."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch

from .cost import RowCount
from .schedule import Plan, Step


class RowTally:
    """Counts the conditionings of each step, a row a picture each: combined or scheduled prompts change the number."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ran: set[Hashable] = set()  # in this evaluation, by uuid: a pass that repeats one counts for nothing
        self._left_out = 0
        self._most: dict[int, RowCount] = {}  # of a step's evaluations

    def begin_evaluation(self) -> None:
        self._ran.clear()
        self._left_out = 0

    def ran(self, step: Step, uuids: Iterable[Hashable]) -> None:
        """Count conditionings of a model call."""
        self._ran.update(uuids)
        self._keep(step)

    def left_out(self, step: Step, conds: Sequence[dict], timestep: torch.Tensor) -> None:
        """Count what the cut-off leaves out: those of `conds` that run at this noise level (B,)."""
        self._left_out = sum(
            not ("timestep_start" in cond and timestep[0] > cond["timestep_start"])
            and not ("timestep_end" in cond and timestep[0] < cond["timestep_end"])
            for cond in conds
        )
        if self._ran:
            self._keep(step)

    def of(self, step: Step) -> RowCount:
        """The rows of a step; where another node has left all of it out, as many as in others of its kind."""
        alike = [rows for index, rows in self._most.items() if self._plan.steps[index].guided == step.guided]
        return self._most.get(step.index, max(alike, default=RowCount(1, 1)))

    def _keep(self, step: Step) -> None:
        found = RowCount(len(self._ran), len(self._ran) + self._left_out)
        self._most[step.index] = max(self._most.get(step.index, found), found)
