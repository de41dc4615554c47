"""Quality against cost, as in the paper's Fig. 5: one figure a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evaluation.settings import Model, Setting

COSTS = {"teramacs_linear": "FLOPs (T)", "seconds": "seconds a picture"}
LESS_IS_BETTER, MORE_IS_BETTER = "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}"
QUALITIES = {
    "fid": f"FID {LESS_IS_BETTER}",
    "clip_score": f"CLIP score {MORE_IS_BETTER}",
    "lpips": f"LPIPS to the reference {LESS_IS_BETTER}",
}


def draw(model: Model, scores: dict[str, dict[str, Any]], file: Path) -> None:
    """Save the figure: a column for each cost, a row for each score that was taken."""
    taken = [name for name in QUALITIES if any(row[name] is not None for row in scores.values())]
    if not taken:
        return
    figure = Figure(figsize=(5 * len(COSTS), 3.4 * len(taken)), layout="constrained")
    figure.suptitle(f"{model.title}, {model.width} x {model.height}")
    axes = figure.subplots(len(taken), len(COSTS), squeeze=False)
    for row, quality in enumerate(taken):
        for column, cost in enumerate(COSTS):
            _points(axes[row][column], model, scores, cost, quality)
    figure.savefig(file, dpi=120)


def _points(axis: Any, model: Model, scores: dict[str, dict[str, Any]], cost: str, quality: str) -> None:
    """Fewer steps as a line; settings with techniques as single points."""
    axis.set(xlabel=COSTS[cost], ylabel=QUALITIES[quality])
    axis.grid(alpha=0.3)
    found = [(setting, scores[setting.name][cost], scores[setting.name][quality]) for setting in model.settings]
    found = [point for point in found if point[1] is not None and point[2] is not None]
    plain = sorted((x, y) for setting, x, y in found if not setting.techniques)
    axis.plot([x for x, _ in plain], [y for _, y in plain], "o-", color="tab:gray", label="fewer steps")
    for setting, x, y in found:
        if setting.techniques:
            axis.plot([x], [y], _marker(setting), label=setting.name)
        error = scores[setting.name].get(f"{quality}_standard_error")
        if error is not None:
            axis.errorbar([x], [y], yerr=[error], color="tab:gray", alpha=0.5, capsize=2)
    axis.legend(fontsize="small")


def _marker(setting: Setting) -> str:
    return "*" if setting.mixes and setting.caches else "s" if setting.mixes else "^"
