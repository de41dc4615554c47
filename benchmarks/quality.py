"""What PostDiff costs in quality, on the embedded model, beside fewer steps and what ComfyUI has for the same wish.

    python dev.py bench quality                          every table; hours on a CPU, stopped and continued at will
    python dev.py bench quality --only frontier --pairs 128
    python dev.py bench quality --dtype bf16             in half the time on a CPU with AMX
    python dev.py bench quality --only gate              what `python dev.py test` compares with, for these weights

Every setting runs through the real nodes, on the same pairs of prompt and seed. Pictures and scores are kept in
--store, results go to benchmarks/results. A setting whose first picture the pack no longer draws alike is drawn again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _host

from arguments import positive
from environment import cache_folder

GATE = "gate"
MIN_WORK_SAVED, MAX_POINTS_LOST = 2.2, 2.0


def main() -> None:
    options = _parse()
    _host.start(options)
    from _quality_runs import Runs
    from _quality_scores import Scorebook, subject_and_examiner
    from _quality_settings import tables

    known = tables()
    unknown = set(options.only) - {*known, GATE}
    if unknown:
        raise SystemExit(f"There is no table {', '.join(sorted(unknown))}. Available: {', '.join([*known, GATE])}.")
    as_tested = options.device == "cpu" and not options.dtype
    if GATE in options.only and not as_tested:
        raise SystemExit(
            "The gate is recorded as the tests draw it, on the CPU in what ComfyUI chooses: "
            "leave out --dtype, and give --device cpu where there is a GPU."
        )
    chosen = [table for name, table in known.items() if name in options.only or not options.only]
    with_gate = not options.report and as_tested and (GATE in options.only or not options.only)
    for first in dict.fromkeys([*([0] if with_gate else []), *(table.first for table in chosen)]):
        subject, examiner = subject_and_examiner(_host.dtype_of(options) if options.dtype else None, first)
        runs = Runs(subject, options.store)
        scorebook = Scorebook(runs, examiner)
        if with_gate and first == 0:
            from _quality_gate import record

            print(record(runs, scorebook, examiner, options.device))
        measure([table for table in chosen if table.first == first], runs, scorebook, examiner, options)


def measure(chosen: Sequence[Any], runs: Any, scorebook: Any, examiner: Any, options: argparse.Namespace) -> None:
    """Draw what is missing of tables with the same pairs, and write them."""
    failures: dict[str, str] = {}
    stopped = False
    try:
        if not options.report:
            failures = draw(chosen, runs, scorebook, options.pairs)
    except KeyboardInterrupt:
        stopped = True
    for table in chosen:
        print(write(table, runs, scorebook, examiner, failures, options))
    if stopped:
        raise SystemExit("Interrupted: what is there was reported; the same command goes on.")


def draw(chosen: Sequence[Any], runs: Any, scorebook: Any, most: int | None) -> dict[str, str]:
    """Draw and score what is missing, every table's first pairs before any table's last; returns what failed."""
    from _measure import attempt
    from _quality_settings import FULL, GRID_PAIRS, HEADLINE_PAIRS
    from tqdm import tqdm

    failures: dict[str, str] = {}
    wanted = {table.name: min(most or table.pairs, table.pairs) for table in chosen}
    passes = [
        (setting, min(level, wanted[table.name]))
        for level in (GRID_PAIRS, HEADLINE_PAIRS)
        for table in chosen
        for setting in table.settings
    ]
    most_of = {setting.key: (setting, pairs) for setting, pairs in sorted(passes, key=lambda each: each[1])}
    todo = sum(max(0, pairs - runs.shards(setting).done) for setting, pairs in most_of.values())
    with tqdm(total=todo, unit="picture", smoothing=0.05) as progress:
        for setting, pairs in passes:
            if setting.key in failures:
                continue
            progress.set_description(setting.name)

            def work(setting: Any = setting, pairs: int = pairs) -> None:
                for some in runs.missing(setting, pairs):
                    runs.draw(setting, some)
                    scorebook.score(setting, some)
                    progress.update(len(some))

            failure = attempt(work)
            if failure:
                failures[setting.key] = failure
                progress.write(f"{setting.name} failed: {failure}")
                if setting == FULL:
                    raise SystemExit("Without the full run there is nothing to compare with.")
    return failures


def write(table: Any, runs: Any, scorebook: Any, examiner: Any, failures: dict[str, str], options: Any) -> str:
    """Save what is known of a table as JSON, Markdown and a plot; returns the Markdown."""
    import _quality_report as report
    from _measure import machine
    from _quality_runs import SEED
    from _quality_settings import FULL
    from _results import FOLDER, save
    from tqdm import tqdm

    from postdiff.embedded_model.loader import RECOMMENDED

    if not runs.shards(FULL).done:
        return f"{table.title}: nothing drawn yet."
    for setting in tqdm((FULL, *table.settings), desc=f"{table.name}: scores", unit="setting", disable=None):
        for some in runs.shards(setting).ranges():
            scorebook.score(setting, some)  # does nothing where that is done
    real = examiner.real_features()
    full = scorebook.read(FULL, table.pairs)
    pairs = min(options.pairs or table.pairs, table.pairs)
    scores = {setting.name: scorebook.read(setting, pairs) for setting in table.settings}
    rows = [
        report.row(setting, scores[setting.name], full, real, failures.get(setting.key))
        for setting in table.settings
        if scores[setting.name] or setting.key in failures
    ]
    result = {
        "benchmark": "quality",
        "name": f"quality-{table.name}",
        "title": table.title,
        "weights": runs.subject.weights_hash,
        "scorer": examiner.key,
        "seed": SEED,
        "first_pair": table.first,
        "sampling": ", ".join([*(f"{name} {value}" for name, value in RECOMMENDED.items()), runs.subject.dtype]),
        "pairs_wanted": table.pairs,
        "machine": machine(options.device),
        "notes": list(table.notes),
        "rows": rows,
        "comparisons": report.comparisons(table, rows, scores, real),
        "goals": goals(rows) if table.name == "preset" else [],
    }
    report.plot(result, FOLDER / f"quality-{table.name}.png")
    save(result["name"], result, page := report.page(result))
    return page


def goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whether the shipped preset keeps what it promises, at the bad end of the interval."""
    from _quality_settings import PRESET

    found = [row for row in rows if row["name"] == PRESET.name and row["pairs"]]
    if not found:
        return []
    saved, points = found[0]["times_less_work"], found[0]["right_difference"]
    return [
        {
            "text": f"at least {MIN_WORK_SAVED} times fewer multiply-accumulates than the full run",
            "met": saved >= MIN_WORK_SAVED,
            "found": f"{saved:.2f}",
        },
        {
            "text": f"at most {MAX_POINTS_LOST:g} points of prompts drawn right lost",
            "met": 100 * points["low"] >= -MAX_POINTS_LOST,
            "found": f"{100 * points['value']:+.1f}, bad end {100 * points['low']:+.1f}",
        },
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench quality", description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these tables only")
    parser.add_argument("--pairs", type=positive, help="at most so many pairs a setting; default: as each table plans")
    parser.add_argument("--report", action="store_true", help="draw nothing; tables of what is there")
    parser.add_argument(
        "--store", type=Path, default=cache_folder() / "quality", help="where pictures and scores are kept"
    )
    parser.add_argument("--dtype", choices=_host.DTYPES, help="the denoiser's; default: what ComfyUI chooses")
    _host.add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
