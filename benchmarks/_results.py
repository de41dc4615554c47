"""Results as files and Markdown tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _measure import mean_and_its_error

from tables import markdown

OURS = "PostDiff"
FOLDER = Path(__file__).resolve().parent / "results"


def save(name: str, result: dict[str, Any], table: str) -> None:
    """Write results/NAME.json and results/NAME.md."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (FOLDER / f"{name}.md").write_text(table + "\n", encoding="utf-8")


def speed_table(result: dict[str, Any]) -> str:
    """The result of speed.py as Markdown."""
    header = ["", "seconds", "±", "speed-up", "arithmetic limit", "share", "attainable limit", "share"]
    header += ["peak memory above stock, MB", "cached, MB"]
    rows = [
        [
            row["name"].replace("_", " "),
            _seconds(row["seconds"]),
            _spread(row["spread"], result),
            f"{row['speedup']:.2f}",
            f"{row['arithmetic']:.2f}",
            f"{row['speedup'] / row['arithmetic']:.2f}",
            f"{row['attainable']:.2f}",
            f"{row['speedup'] / row['attainable']:.2f}",
            "?" if row["peak_memory_above_stock_mb"] is None else f"{row['peak_memory_above_stock_mb']:.0f}",
            f"{row['cached_mb']:.1f}",
        ]
        for row in result["rows"]
    ]
    columns = {"seconds": "seconds", "on_smallest": "on the smallest latent"}
    shown = [column for column in columns if column in result["step_kinds"][0]]  # the second is newer
    kinds = [[kind["name"], *(_seconds(kind[column]) for column in shown)] for kind in result["step_kinds"]]
    return "\n".join(
        [
            f"# {result['model']}, {result['pixels']} px, {result['steps']} steps{_batch(result)}, {result['dtype']}",
            "",
            conditions(result),
            "",
            *markdown(header, rows),
            "",
            f"Switched-off nodes add {result['neutral_ms_per_evaluation']:.2f} ms of the processor's to an evaluation.",
            "",
            *markdown(["step of the attainable limit", *(columns[column] for column in shown)], kinds),
        ]
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.4g}"


def _batch(result: dict[str, Any]) -> str:
    batch = result.get("batch", 1)
    return f", {batch} pictures at once" if batch > 1 else ""


def place(machine: dict[str, Any]) -> str:
    """Where figures were read, in a sentence."""
    memory = f" ({machine['memory']})" if "memory" in machine else ""
    return (
        f"{machine['device']}{memory}, {machine['cores']} cores, torch threads: {machine['torch_threads']}, torch "
        f"{machine['torch']}, ComfyUI {machine['comfyui']}, {machine['date']}."
    )


def conditions(result: dict[str, Any]) -> str:
    """Where and how times were taken, in two sentences."""
    clock = {"wall": "Wall clock", "cpu": "Processor time per thread (the machine was in use by others)"}
    rounds = f"medians of {result['repeats']} alternating rounds; ± is half the range"
    taken = "one round" if result["repeats"] == 1 else rounds
    return f"{place(result['machine'])} {clock[result['clock']]}, {taken}."


def _spread(share: float, result: dict[str, Any]) -> str:
    return f"{share:.1%}" if result["repeats"] > 1 else ""


def peers_speed_table(result: dict[str, Any]) -> str:
    """The result of `peers.py speed` as Markdown, fastest first."""
    rows = sorted(result["rows"], key=lambda row: -row.get("speedup", 0.0))
    lines = [
        [row["name"], row["setting"], _seconds(row["seconds"]), _spread(row["spread"], result), f"{row['speedup']:.2f}"]
        if row["failure"] is None
        else [row["name"], row["setting"], "failed", "", row["failure"]]
        for row in rows
    ]
    stock = ["stock", "", _seconds(result["stock_seconds"]), _spread(result["stock_spread"], result), "1.00"]
    return "\n".join(
        [
            f"# Peers: {result['title']}",
            "",
            conditions(result),
            "",
            *markdown(["", "setting", "seconds", "±", "speed-up"], [*lines, stock]),
        ]
    )


def peers_error_table(result: dict[str, Any]) -> str:
    """The result of `peers.py error` as Markdown, by peer and cost, with PostDiff's lead at the same cost or less."""
    done = [row for row in result["rows"] if row["failure"] is None]

    def line(row: dict[str, Any]) -> list[str]:
        drifts = [_with_error(row["drifts"]), lead(done, row, "drifts")] if row["keeps_composition"] else ["", ""]
        return [
            *(row["name"], row["setting"], f"{row['work_saved_factor']:.2f}"),
            *(_with_error(row["errors"]), lead(done, row, "errors")),
            *drifts,
        ]

    order = sorted(done, key=lambda row: (row["name"] != OURS, row["name"], row["work_saved_factor"]))
    failed = [[row["name"], row["setting"], "failed", row["failure"]] for row in result["rows"] if row["failure"]]
    stock = ["stock", "", "1.00", _with_error(result["stock"]["errors"])]
    header = ["", "setting", "times less work", "error", "PostDiff's lead", "drift", "PostDiff's lead"]
    return "\n".join(
        [
            f"# Peers: {result['title']}",
            "",
            place(result["machine"]),
            "",
            f"Error: {result['error_is']}, mean and its standard error. Drift: the latent's difference from the stock "
            "run's of the same seed, root mean square and relative to it; none is given for runs that start at low "
            "resolution, which compose another picture. Cost: the stock run's executed multiply-accumulates over this "
            "run's. Lead: how much less PostDiff errs or drifts, picture by picture, at the best of its settings here "
            "that do as little work or less; mean and its standard error, below 0 where it is behind.",
            "",
            *markdown(header, [padded(cells, len(header)) for cells in (*map(line, order), *failed, stock)]),
        ]
    )


def lead(rows: Sequence[dict[str, Any]], row: dict[str, Any], what: str) -> str:
    """PostDiff's lead over another row's `errors` or `drifts`; empty where it has no setting that is as cheap."""
    cheap = [each for each in rows if each["name"] == OURS and each["work_saved_factor"] >= row["work_saved_factor"]]
    comparable = [each for each in cheap if what == "errors" or each["keeps_composition"]]
    if row["name"] == OURS or not comparable:
        return ""
    best = min(comparable, key=lambda each: statistics.mean(each[what]))
    return "{:+.4f} ± {:.4f}".format(*mean_and_its_error([b - a for a, b in zip(best[what], row[what], strict=True)]))


def _with_error(values: Sequence[float]) -> str:
    return "{:.4f} ± {:.4f}".format(*mean_and_its_error(values))


def reuse_table(result: dict[str, Any]) -> str:
    """The result of `peers.py reuse` as Markdown, one step a line."""
    rows = [
        [
            *(f"{row['step'] + 1}", f"{row['sigma']:.2f}"),
            *(f"{mean:.3f} ± {error:.3f}" for mean, error in (row["reused"], row["left_out"])),
            f"{row['reused'][0] / row['left_out'][0]:.2f}",
        ]
        for row in result["rows"]
    ]
    return "\n".join(
        [
            f"# A step with the deep branch reused, and a step left out: {result['title']}",
            "",
            place(result["machine"]),
            "",
            "Difference from the step's exact velocity, root mean square and relative to it, mean and its standard "
            f"error. Reused: only the first and last {result['depth']} blocks are computed, around the deep feature of "
            "the step before. Left out: the velocity of the step before serves for both. Either is given the latent of "
            "the exact run.",
            "",
            *markdown(["step", "sigma", "reused", "left out", "ratio"], rows),
        ]
    )


def padded(cells: Sequence[str], columns: int) -> list[str]:
    return [*cells, *[""] * (columns - len(cells))]
