"""The calibration's search replayed on scores of the full grid: what it chooses, what it costs, how small sets rank."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from postdiff.postdiff_core.calibrate.search import Search, difference

Errors = Mapping[str, Sequence[float]]  # by candidate, one a picture; the less the better


class Replay(NamedTuple):
    """Shares of the replays, each on other random pictures."""

    within_error_of_best: float  # the choice errs at most one standard error of the grid's best more than that
    within_error_of_difference: float  # ... at most one standard error of their difference, picture by picture
    cost: float  # mean work of the search over that of the full grid
    work_of_choice: float  # mean, over the stock run's
    choices: dict[str, int]


def best_of_grid(errors: Errors) -> str:
    return min(errors, key=lambda name: mean(errors[name]))


def replay(errors: Errors, cost: Mapping[str, float], pictures: int, times: int, seed: int = 0) -> Replay:
    """Search `times` times among these candidates, each time on so many others of the pictures."""
    generator = random.Random(seed)
    near, level, spent, choices = 0, 0, 0.0, dict.fromkeys(errors, 0)
    for _ in range(times):
        drawn = generator.sample(range(len(next(iter(errors.values())))), pictures)
        grid = {name: [row[picture] for picture in drawn] for name, row in errors.items()}
        best = best_of_grid(grid)
        search = Search(cost, pictures)
        search.run(lambda name, picture, grid=grid: -grid[name][picture])
        chosen = search.choice()
        assert chosen is not None
        choices[chosen] += 1
        spent += sum(cost[name] * len(scores) for name, scores in search.scores.items())
        worse = mean(grid[chosen]) - mean(grid[best])
        near += worse <= stdev(grid[best]) / pictures**0.5
        gap = difference(dict(enumerate(grid[chosen])), dict(enumerate(grid[best])))
        level += chosen == best or (gap is not None and gap.mean <= gap.error)
    work = sum(cost[name] * count for name, count in choices.items()) / times
    whole = pictures * sum(cost[name] for name in errors)
    return Replay(near / times, level / times, spent / times / whole, work, {n: c for n, c in choices.items() if c})


def agreement(errors: Errors, size: int, times: int, seed: int = 0) -> float:
    """Mean rank correlation (Spearman) between `size` random pictures and all the others (the paper's figure 9)."""
    from scipy.stats import spearmanr

    generator = random.Random(seed)
    pictures = range(len(next(iter(errors.values()))))

    def correlation() -> float:
        small = set(generator.sample(pictures, size))
        sets = (small, set(pictures) - small)
        ranked = [[mean(row[picture] for picture in chosen) for row in errors.values()] for chosen in sets]
        return float(spearmanr(*ranked).statistic)

    return mean(correlation() for _ in range(times))


def table(result: dict[str, Any]) -> str:
    """The result of calibrate.py as Markdown."""
    from tables import markdown

    machine, replayed = result["machine"], result["replay"]
    rows = sorted(result["candidates"], key=lambda row: mean(row["errors"]))
    lines = [
        [
            row["name"],
            f"{1 / row['share']:.2f}",
            f"{mean(row['errors']):.4f} ± {stdev(row['errors']) / len(row['errors']) ** 0.5:.4f}",
            f"{replayed['choices'].get(row['name'], 0) / result['replays']:.0%}" if row["searched"] else "not searched",
        ]
        for row in rows
    ]
    agreements = [
        [str(size), *(f"{value:.2f}" for value in found.values())] for size, found in result["agreement"].items()
    ]
    return "\n".join(
        [
            f"# Calibration: {result['title']}",
            "",
            f"{machine['device']}, {machine['cores']} cores, torch {machine['torch']}, ComfyUI {machine['comfyui']}, "
            f"{machine['date']}; weights {result['weights'][:12]}.",
            "",
            f"Error: {result['error_is']}, mean and its standard error over {result['pictures']} pictures. Searched "
            f"are the settings that do at least {result['min_speedup']:g} times less work than the stock run.",
            "",
            f"The search, replayed {result['replays']} times on {result['searched_pictures']} of them drawn at random, "
            f"chose settings within one standard error of the grid's best on these in "
            f"{replayed['within_error_of_best']:.0%} (within one standard error of their difference, picture by "
            f"picture, in {replayed['within_error_of_difference']:.0%}), at {replayed['cost']:.1%} of the full grid's "
            "work.",
            "",
            *markdown(["settings", "times less work", "error", "chosen"], lines),
            "",
            "Rank correlation (Spearman) between so many random pictures and all the others:",
            "",
            *markdown(["pictures", *next(iter(result["agreement"].values()))], agreements),
        ]
    )
