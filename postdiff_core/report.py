"""What a run did and what it saved, as one JSON document and two readable lines."""

from __future__ import annotations

import logging
from statistics import median
from typing import Any

from .architecture import Size
from .cost import PlanWork, UncountableModel, plan_work
from .run import Run
from .schedule import Settings, Step

log = logging.getLogger("postdiff")


def document(run: Run, settings: Settings, size: Size, low_size: Size | None, *, batch: int) -> dict[str, Any]:
    """The report of a finished run, plain data.

    `size` and `low_size` are latent (height, width). Seconds are measured from a step's evaluation to the next step's;
    multiply-accumulates are the plan's, one evaluation a step, attention products included.
    """
    work = _work(run, settings, size, low_size, batch)  # while the device is still at work
    seconds = run.clock.seconds(len(run.plan.steps))
    return {
        "plan": [step.document() | {"cfg": "on" if run.is_guided(step) else "off"} for step in run.plan.steps],
        "steps": [{"seconds": spent, "macs": work.steps[i].total if work else None} for i, spent in enumerate(seconds)],
        "totals": {
            "seconds": sum(filter(None, seconds)),
            "macs": work.total.total if work else None,
            "macs_stock": work.stock.total if work else None,
            "work_saved": work.work_saved if work else None,
            "speedup": _measured_speedup(run, seconds),
        },
        "has_guidance": run.has_guidance,
        "cached_bytes": run.peak_cached_bytes,
        "size": list(size),
        "low_size": list(low_size) if low_size else None,
        "notes": list(run.notes),
    }


def summary(report: dict[str, Any]) -> list[str]:
    """Two lines: what was done, and what it took and saved."""
    plan, totals = report["plan"], report["totals"]
    low = sum(step["stage"] == "low" for step in plan)
    deep = sum(step["deep"] == "reuse" for step in plan)
    cross_attn = sum(step["xattn"] == "reuse" for step in plan)
    done = [f"{low} at low resolution", f"{deep} reused the deep branch", f"{cross_attn} reused cross-attention"]
    if report["has_guidance"]:
        done.append(f"{sum(step['cfg'] == 'off' for step in plan)} unguided")
    taken = [f"{totals['seconds']:.2f} s"]
    if totals["speedup"] is not None:
        taken.append(f"{totals['speedup']:.2f}x against this run's full-cost steps")
    if totals["work_saved"] is not None:
        taken.append(f"{totals['work_saved']:.0%} of the work saved")
    return [
        f"{len(plan)} steps: {', '.join(done)}.",
        f"{', '.join(taken)}, {report['cached_bytes'] / 1e6:.0f} MB cached.",
    ]


def log_summary(report: dict[str, Any]) -> None:
    """Log the two lines of `summary`."""
    for line in summary(report):
        log.info("PostDiff: %s", line)


def _work(run: Run, settings: Settings, size: Size, low_size: Size | None, batch: int) -> PlanWork | None:
    if run.tokens is None:
        return None
    try:
        return plan_work(
            run.guider.model_patcher.model,
            run.plan,
            size,
            low_size,
            tokens=run.tokens,
            batch=batch,
            rows=[run.row_tally.of(step) for step in run.plan.steps],
            depth=settings.deep_cache.depth if settings.deep_cache else None,
        )
    except UncountableModel as error:
        run.note(f"Work is not counted: {error}", logging.INFO)
        return None


def _measured_speedup(run: Run, seconds: list[float | None]) -> float | None:
    """Against a run made of this run's own full-cost steps; None if it had none, or no others.

    The first of those is left out where there are more: it pays for warming up.
    """
    timed = [(step, spent) for step, spent in zip(run.plan.steps, seconds, strict=True) if spent is not None]
    full_cost = [spent for step, spent in timed if _is_full_cost(run, step)]
    total = sum(filter(None, seconds))
    if not full_cost or not total or len(full_cost) == len(run.plan.steps):
        return None
    return median(full_cost[1:] or full_cost) * len(run.plan.steps) / total


def _is_full_cost(run: Run, step: Step) -> bool:
    """Whether it cost what a step of the stock run costs."""
    reuses = step.deep == "reuse" or step.cross_attn == "reuse"
    return not step.low_res and not reuses and run.is_guided(step) == run.has_guidance
