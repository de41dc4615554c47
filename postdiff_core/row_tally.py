"""How many rows of a batch each step of a run takes, and would take in a stock run, for the report."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

from .cost import RowCount
from .schedule import Plan, Step


class RowTally:
    """Counts the conditionings of each step, a row a picture each: combined or scheduled prompts change the number."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ran: set[Hashable] = set()  # in this evaluation: a pass that repeats one counts for nothing
        self._left_out = 0
        self._most: dict[int, RowCount] = {}  # of a step's evaluations

    def begin_evaluation(self) -> None:
        self._ran.clear()
        self._left_out = 0

    def ran(self, step: Step, conditionings: Iterable[Hashable]) -> None:
        """Count conditionings of a model call."""
        self._ran.update(conditionings)
        self._keep(step)

    def left_out(self, step: Step, conds: Sequence[dict], sigma: float) -> None:
        """Count what the cut-off leaves out: those of `conds` that run at this noise level."""
        self._left_out = sum(
            cond.get("timestep_end", -math.inf) <= sigma <= cond.get("timestep_start", math.inf) for cond in conds
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
