"""A calibration as a Markdown table and as a JSON document."""

from __future__ import annotations

import dataclasses
from typing import Any

from .calibration import Result, Row

PARAMETERS = ("steps", "low_res_scale", "low_res_until", "interval", "deep_cache_start", "start_percent")


def markdown(result: Result) -> str:
    """One line per candidate, best first; the chosen one in bold, then the stock run."""
    names = [name for name in result.chosen.values if name != result.score_name]
    header = ["", *PARAMETERS, "times less work", "seconds", "pictures", result.score_name, *names]
    rows = sorted(result.rows, key=lambda row: (row != result.chosen, -row.score))
    lines = [_line("**chosen**" if row == result.chosen else "", row, names) for row in rows]
    if result.stock:
        lines.append(_line("stock", result.stock, names))
    table = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in table), *(f"\n{note}" for note in result.notes)])


def document(result: Result) -> dict[str, Any]:
    """Everything found, as plain data."""
    gain = result.gain
    return {
        "chosen": _row(result.chosen),
        "stock": _row(result.stock) if result.stock else None,
        "gain_over_stock": {"mean": gain.mean, "standard_error": gain.error} if gain else None,
        "score": result.score_name,
        "complete": result.complete,
        "rows": [_row(row) for row in result.rows],
        "notes": list(result.notes),
    }


def parameters(row: Row) -> dict[str, float]:
    """T, beta, s, k, the deep cache's beginning and m by the names of the node's inputs."""
    return {name: getattr(row.candidate, name) for name in PARAMETERS}


def _row(row: Row) -> dict[str, Any]:
    return {
        **parameters(row),
        "settings": dataclasses.asdict(row.candidate.settings),
        "times_less_work": row.times_less_work,
        "pictures": row.pictures,
        "score": row.score,
        "standard_error": row.error,
        "values": dict(row.values),
        "seconds": row.seconds,
    }


def _line(mark: str, row: Row, names: list[str]) -> list[str]:
    error = f" ± {row.error:.2f}" if row.error else ""
    return [
        mark,
        *(f"{value:g}" for value in parameters(row).values()),
        f"{row.times_less_work:.2f}",
        "" if row.seconds is None else f"{row.seconds:.2f}",
        str(row.pictures),
        f"{row.score:.2f}{error}",
        *(f"{row.values[name]:.3f}" for name in names),
    ]
