"""Tables and plots of `quality`, from the scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _quality_scores import Tensors, frechet_distance
from _quality_settings import FULL, Setting, Table
from _quality_statistics import Estimate, bootstrap, mean, share_difference

from postdiff.embedded_model.training.judge import wilson_interval
from tables import markdown

FRECHET_RESAMPLES = 200
SAME_WORK = 0.01

SCORES_ARE = (
    "**right**: share of pictures whose nearest training picture is of the concept prompted; **points** is the change "
    "in percentage points. **Frechet**: distance of the pictures' features from the training pictures', in an encoder "
    "of this repository that was trained on other icons; it falls as pairs are added, so compare where they are equal. "
    "**detail**: Laplacian energy relative to the real icons'. **error**: difference from the prompt's own training "
    "picture. Changes are from the full run, pair by pair; brackets hold 95 % intervals. All scores are of emoji; none "
    "is an FID, a CLIP score or LPIPS."
)


def row(setting: Setting, scores: Tensors, full: Tensors, real_features: Any, failure: str | None) -> dict[str, Any]:
    """One setting against the full run of the same pairs, as plain data."""
    about = {"name": setting.name, "group": setting.group, "failure": failure, **setting.document()}
    if not scores or failure:
        return {**about, "pairs": 0}
    pairs = min(len(scores["right"]), len(full["right"]))
    ours, stock = ({name: tensor[:pairs] for name, tensor in each.items()} for each in (scores, full))
    work, hits = float(ours["macs"].double().mean() / stock["macs"].double().mean()), int(ours["right"].sum())
    found: dict[str, Any] = {
        "pairs": pairs,
        "macs": float(ours["macs"].double().mean()),
        "work": work,
        "times_less_work": 1 / work,
        "right": Estimate(hits / pairs, *wilson_interval(hits, pairs)),
        "error": mean(ours["error"].numpy()),
        "detail": bootstrap(lambda rows: _detail(ours, rows), pairs),
        **({"frechet": frechet_distance(real_features, ours["features"])} if _enough(ours) else {}),
        **{name: mean(ours[name].numpy()) for name in ("psnr", "ssim", "difference") if name in ours},
        **(differences(ours, stock, real_features) if setting != FULL else {}),
    }
    return about | {name: value._asdict() if isinstance(value, Estimate) else value for name, value in found.items()}


def differences(ours: Tensors, others: Tensors, real_features: torch.Tensor) -> dict[str, Estimate]:
    """Each score's change from `others` to `ours`, over the pairs that both have."""
    pairs = min(len(ours["right"]), len(others["right"]))
    ours, others = ({name: tensor[:pairs] for name, tensor in each.items()} for each in (ours, others))

    def frechet(rows: np.ndarray) -> float:
        one, other = (frechet_distance(real_features, each["features"][rows]) for each in (ours, others))
        return one - other

    found = {
        "right_difference": share_difference(ours["right"].numpy(), others["right"].numpy()),
        "error_difference": mean((ours["error"] - others["error"]).numpy()),
        "detail_difference": bootstrap(lambda rows: _detail(ours, rows) - _detail(others, rows), pairs),
    }
    return found | ({"frechet_difference": bootstrap(frechet, pairs, FRECHET_RESAMPLES)} if _enough(ours) else {})


def _detail(scores: Tensors, rows: np.ndarray) -> float:
    return float(scores["detail"].numpy()[rows].sum() / scores["real_detail"].numpy()[rows].sum())


def _enough(scores: Tensors) -> bool:
    """Whether there are more pictures than features, without which a covariance is singular."""
    pairs, features = scores["features"].shape
    return pairs > features


def comparisons(table: Table, rows: Sequence[dict[str, Any]], scores: dict[str, Tensors], real: Any) -> list[dict]:
    """Settings against those that the table names, or against its last group's at the same work or a little more."""
    done = {row["name"]: row for row in rows if row["pairs"]}
    named = [(done[name], done[other]) for name, other in table.against if name in done and other in done]
    found = []
    for row, other in [*named, *_at_equal_work(table, list(done.values()))]:
        change = differences(scores[row["name"]], scores[other["name"]], real)
        pairs = min(row["pairs"], other["pairs"])
        found.append({"name": row["name"], "against": other["name"], "work": row["work"], "pairs": pairs})
        found[-1] |= {"against_work": other["work"], **{name: each._asdict() for name, each in change.items()}}
    return found


def _at_equal_work(table: Table, done: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The settings of the table's first compared groups, each with the last's that takes as much or a little more."""
    *groups, last = table.compared or (None,)
    found = []
    for row in (row for row in done if row["group"] in groups):
        dearer = [each for each in done if each["group"] == last and each["work"] >= row["work"] * (1 - SAME_WORK)]
        if dearer:
            found.append((row, min(dearer, key=lambda each: each["work"])))
    return found


def page(result: dict[str, Any]) -> str:
    """A table's result as Markdown, group by group in the order given, in each the dearest setting first."""
    machine = result["machine"]
    done = [each for each in result["rows"] if each["pairs"]]
    groups = list(dict.fromkeys(each["group"] for each in done))
    done.sort(key=lambda each: (groups.index(each["group"]), -each["work"]))
    pairs = sorted({each["pairs"] for each in done})
    drawn = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    failed = [each for each in result["rows"] if each["failure"]]
    lines = [[each["name"], f"failed: {each['failure']}", *[""] * (len(HEADER) - 2)] for each in failed]
    return "\n".join(
        [
            f"# {result['title']}",
            "",
            f"Embedded model (weights {result['weights'][:12]}), {result['sampling']}. {drawn} pairs of prompt and "
            f"noise (seed {result['seed']}, from pair {result['first_pair']} on), {result['pairs_wanted']} planned. "
            f"{machine['device']}, torch "
            f"{machine['torch']}, ComfyUI {machine['comfyui']}, {machine['date']}.",
            *(line for note in result["notes"] for line in ("", note)),
            "",
            SCORES_ARE,
            "",
            *markdown(HEADER, [*map(_line, done), *lines]),
            *_compared(result["comparisons"]),
            "",
            f"![{result['title']}]({result['name']}.png)",
            *_goals(result["goals"]),
        ]
    )


HEADER = ("", "pairs", "times less work", "right", "points", "Frechet", "change", "detail", "change", "error")
HEADER += ("PSNR, dB", "SSIM")


def _compared(found: Sequence[dict[str, Any]]) -> list[str]:
    if not found:
        return []
    header = ["", "against", "pairs", "work", "against's", "points", "Frechet", "detail", "error"]
    lines = [
        [
            *(each["name"], each["against"], str(each["pairs"]), f"{each['work']:.3f}", f"{each['against_work']:.3f}"),
            _signed(each["right_difference"], 100, 1),
            _signed(each.get("frechet_difference"), 1, 1),
            _signed(each["detail_difference"], 1, 3),
            _signed(each["error_difference"], 1, 4),
        ]
        for each in found
    ]
    title = "Change, pair by pair, beside a setting of about the same work (shares of the full run's work):"
    return ["", title, "", *markdown(header, lines)]


def _line(found: dict[str, Any]) -> list[str]:
    right = found["right"]
    return [
        *(found["name"], str(found["pairs"]), f"{found['times_less_work']:.2f}"),
        f"{right['value']:.3f} ({right['low']:.3f} to {right['high']:.3f})",
        _signed(found.get("right_difference"), 100, 1),
        f"{found['frechet']:.1f}" if "frechet" in found else "",
        _signed(found.get("frechet_difference"), 1, 1),
        f"{found['detail']['value']:.3f}",
        _signed(found.get("detail_difference"), 1, 3),
        f"{found['error']['value']:.4f}",
        f"{found['psnr']['value']:.1f}" if "psnr" in found else "",
        f"{found['ssim']['value']:.3f}" if "ssim" in found else "",
    ]


def _signed(estimate: dict[str, float] | None, factor: float, digits: int) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{factor * estimate[end]:+.{digits}f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _goals(goals: Sequence[dict[str, Any]]) -> list[str]:
    return ["" for _ in goals[:1]] + [
        f"- {goal['text']}: {'met' if goal['met'] else 'not met'} ({goal['found']})." for goal in goals
    ]


def plot(result: dict[str, Any], file: Path) -> None:
    """Each score over the work, one curve a group, with its 95 % interval where it has one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    done = [each for each in result["rows"] if each["pairs"]]
    panels = [panel for panel in PANELS if any(panel[0] in each for each in done)]
    figure = Figure(figsize=(4.6 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    groups = list(dict.fromkeys(each["group"] for each in done))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, label) in zip(axes, panels, strict=True):
        for number, group in enumerate(groups):
            points = sorted(
                ((each["work"], each[name]) for each in done if each["group"] == group and name in each),
                key=lambda point: point[0],
            )
            _curve(axis, points, group, f"C{number}")
        axis.set_xlabel("work, share of the full run's")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(groups), 8), fontsize=8)
    figure.suptitle(result["title"], fontsize=11)
    figure.savefig(file, dpi=110)


PANELS = (
    ("right", "right, share"),
    ("frechet", "Frechet distance (lower is better)"),
    ("detail", "detail, relative to the real icons"),
)


def _curve(axis: Any, points: Sequence[tuple[float, Any]], label: str, colour: str) -> None:
    works = [work for work, _ in points]
    values = [score["value"] if isinstance(score, dict) else score for _, score in points]
    axis.plot(works, values, "o-", label=label, color=colour, markersize=4, linewidth=1)
    for work, score in points:
        if isinstance(score, dict):
            axis.vlines(work, score["low"], score["high"], color=colour, alpha=0.5)
