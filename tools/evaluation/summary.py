"""Scores of all pictures, from the stored shards one after the other: summary, table, plots."""

from __future__ import annotations

import importlib.metadata
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from tqdm import tqdm

from evaluation.networks import Judges, fid_from_features
from evaluation.settings import Model, Setting
from evaluation.store import Store
from tables import markdown

PACKAGES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "transformers", "ray")
ERRORS_SHOWN = 20
MIN_PICTURES_FOR_FID = 10_000
LESS_IS_BETTER, MORE_IS_BETTER, YES = "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}", "\N{CHECK MARK}"
HEADER = ["Model", "Steps", "Mix", "Cache", f"FID {LESS_IS_BETTER}", f"Clip Score {MORE_IS_BETTER}"]
HEADER += [f"{cost} {LESS_IS_BETTER}" for cost in ("FLOPs (T)", "Latency (s)", "LPIPS", "FLOPs with attention (T)")]
HEADER += ["pictures"]


@dataclass
class Scores:
    """One row of the table. None where a score was not asked for or has no pictures."""

    pictures: int = 0
    failed: int = 0
    fid: float | None = None
    clip_score: float | None = None
    clip_score_standard_error: float | None = None
    lpips: float | None = None
    lpips_standard_error: float | None = None
    seconds: float | None = None  # medians
    seconds_sample: float | None = None
    seconds_decode: float | None = None
    teramacs: float | None = None  # means
    teramacs_linear: float | None = None
    devices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def score(store: Store, models: Sequence[Model], judges: Judges) -> dict[str, Any]:
    """The summary document: scores by model and setting, what failed, and how all was scored."""
    fid = Fid(store) if judges.fid else None
    rows: dict[str, dict[str, Any]] = {model.name: {} for model in models}
    for model, setting in tqdm(_pairs(models), desc="Scoring", unit="row"):
        rows[model.name][setting.name] = vars(_scores(store, model, setting, fid))
    return {
        "models": rows,
        "real_pictures": {"seen": fid.real, "failed": fid.real_failed} if fid else None,
        "errors": list(_errors(store, models)),
        "judges": vars(judges),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "asked": store.asked(),
    }


class Fid:
    """FID against the real pictures, whose statistics are read once.

    Memory does not grow with the number of pictures: torchmetrics keeps sums, and features come from disk by shards.
    """

    def __init__(self, store: Store) -> None:
        self.real = self.real_failed = 0
        self._metric: Any = None
        for table in store.real(["error", "features"]):
            self.real_failed += table.num_rows - table["error"].null_count
            self.real += self._update(_features(table), real=True)

    def of(self, features: Iterator[torch.Tensor]) -> float | None:
        """FID of one setting's pictures; None with fewer than two of either kind."""
        if self.real < 2:
            return None
        self._metric.reset()  # keeps the real ones
        pictures = sum(self._update(each, real=False) for each in features)
        return float(self._metric.compute()) if pictures >= 2 else None

    def _update(self, features: torch.Tensor, *, real: bool) -> int:
        if not len(features):
            return 0
        if self._metric is None:
            self._metric = fid_from_features(features.shape[1])
        self._metric.update(features, real=real)
        return len(features)


def _scores(store: Store, model: Model, setting: Setting, fid: Fid | None) -> Scores:
    scores, values = Scores(), _Columns()
    names = ["clip_score", "lpips", "seconds_encode", "seconds_sample", "seconds_decode", "macs", "macs_linear"]
    for table in store.pictures(model.name, setting.name, [*names, "error", "device", "notes"]):
        good = table.filter(pc.field("error").is_null())
        scores.pictures += good.num_rows
        scores.failed += table.num_rows - good.num_rows
        scores.devices = sorted({*scores.devices, *good["device"].drop_null().to_pylist()})
        scores.notes = list(dict.fromkeys([*scores.notes, *good["notes"].drop_null().to_pylist()]))
        values.add(good, names)
    scores.clip_score, scores.clip_score_standard_error = values.mean_and_error("clip_score")
    if scores.clip_score is not None:
        scores.clip_score = max(0.0, scores.clip_score)  # as torchmetrics does
    scores.lpips, scores.lpips_standard_error = values.mean_and_error("lpips")
    scores.seconds_sample, scores.seconds_decode = values.median("seconds_sample"), values.median("seconds_decode")
    scores.seconds = values.median("seconds_encode", "seconds_sample", "seconds_decode")
    scores.teramacs, scores.teramacs_linear = (values.tera(name) for name in ("macs", "macs_linear"))
    if fid is not None:
        tables = store.pictures(model.name, setting.name, ["error", "features"])
        scores.fid = fid.of(_features(table) for table in tables)
    return scores


class _Columns:
    """A few numbers of each picture."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, table: Any, names: Sequence[str]) -> None:
        for name in names:
            self._parts.setdefault(name, []).append(table[name].to_numpy())

    def _values(self, name: str) -> np.ndarray:
        """NaN where a picture has none."""
        parts = [np.asarray(part, dtype=float) for part in self._parts.get(name, [])]
        return np.concatenate(parts) if parts else np.empty(0)

    def mean_and_error(self, name: str) -> tuple[float | None, float | None]:
        values = self._values(name)
        values = values[~np.isnan(values)]
        if not len(values):
            return None, None
        error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
        return float(values.mean()), error

    def median(self, *names: str) -> float | None:
        values = sum(self._values(name) for name in names)
        return statistics.median(values.tolist()) if isinstance(values, np.ndarray) and len(values) else None

    def tera(self, name: str) -> float | None:
        mean, _ = self.mean_and_error(name)
        return None if mean is None else mean / 1e12


def _features(table: Any) -> torch.Tensor:
    """(n, d) of the pictures that did not fail."""
    given = table.filter(pc.field("features").is_valid())["features"].combine_chunks()
    if not len(given):
        return torch.empty(0, 0)
    flat = given.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(len(given), -1).copy())


def _errors(store: Store, models: Sequence[Model]) -> Iterator[dict[str, Any]]:
    """The first of what failed; records.parquet has all of it."""
    shown = 0
    for model in models:
        for table in store.pictures(model.name, columns=["model", "setting", "prompt_index", "prompt", "error"]):
            for record in table.filter(pc.field("error").is_valid()).to_pylist():
                if shown == ERRORS_SHOWN:
                    return
                shown += 1
                yield record


def table(models: Sequence[Model], summary: dict[str, Any]) -> str:
    """Markdown in the layout of the paper's Table 2, then the paper's own figures where the settings have them."""
    rows = [_row(model, setting, summary["models"][model.name][setting.name]) for model, setting in _pairs(models)]
    lines = ["# Measured", "", *markdown(HEADER, rows), "", *_reading(models, summary)]
    published = [(model, setting) for model, setting in _pairs(models) if setting.published]
    if published:
        figures = [[*_name(*pair), *_cells(pair[1].published)] for pair in published]
        lines += ["", "# Published", "", *markdown(HEADER[:8], figures), ""]
        lines += ["From the paper's Table 2; latencies on an A5000."]
    return "\n".join(lines) + "\n"


def _pairs(models: Sequence[Model]) -> list[tuple[Model, Setting]]:
    return [(model, setting) for model in models for setting in model.settings]


def _row(model: Model, setting: Setting, scores: dict[str, Any]) -> list[str]:
    measured = {"fid": scores["fid"], "clip_score": scores["clip_score"]}
    measured |= {"flops": scores["teramacs_linear"], "latency": scores["seconds"]}
    lpips = "reference" if setting.name == model.reference else _number(scores["lpips"], 3)
    return [*_name(model, setting), *_cells(measured), lpips, _number(scores["teramacs"], 3), str(scores["pictures"])]


def _name(model: Model, setting: Setting) -> list[str]:
    return [model.title, str(setting.steps), YES if setting.mixes else "", YES if setting.caches else ""]


def _cells(figures: Any) -> list[str]:
    digits = {"fid": 2, "clip_score": 2, "flops": 3, "latency": 3}
    return [_number(figures.get(name), places) for name, places in digits.items()]


def _number(value: float | None, places: int) -> str:
    """That many decimals, or as many significant digits for what they would round away."""
    if value is None:
        return "-"
    return f"{value:.{places}f}" if abs(value) >= 10 ** (1 - places) or not value else f"{value:.{places}g}"


def _reading(models: Sequence[Model], summary: dict[str, Any]) -> list[str]:
    """What one must know to read the figures."""
    scores = [summary["models"][model.name][setting.name] for model, setting in _pairs(models)]
    devices = sorted({device for each in scores for device in each["devices"]})
    lines = [
        f"Latency: median seconds of one picture (prompt, sampling, decoding) on {', '.join(devices) or 'no device'}. "
        "FLOPs: the diffusion model's multiply-accumulates, counted as in the paper and with attention products.",
    ]
    if any(each["lpips"] is not None for each in scores):
        references = "; ".join(f"{model.title}: {model.reference}" for model in models)
        lines.append(f"LPIPS: to the picture of the same prompt and seed by the reference setting ({references}).")
    real = summary["real_pictures"]
    if real:
        network = "Inception" if summary["judges"]["inception"] else f"`{summary['judges']['features']}`"
        lines.append(f"FID: features of {network}, against {real['seen']} real pictures.")
        if min([real["seen"], *(each["pictures"] for each in scores)]) < MIN_PICTURES_FOR_FID:
            lines.append(
                f"FID with fewer than {MIN_PICTURES_FOR_FID} pictures is biased upwards: compare equal numbers only."
            )
    failed = sum(each["failed"] for each in scores) + (real["failed"] if real else 0)
    if failed:
        lines.append(f"{failed} pictures failed and are left out; records.parquet and summary.json name their errors.")
    return lines


def write(store: Store, models: Sequence[Model], judges: Judges) -> str:
    """Write records.parquet, summary.json, table.md and the plots; returns the table."""
    from evaluation import plots

    store.write_records([model.name for model in models])
    summary = score(store, models, judges)
    (store.root / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    text = table(models, summary)
    (store.root / "table.md").write_text(text, encoding="utf-8")
    for model in models:
        plots.draw(model, summary["models"][model.name], store.root / f"{model.name}.png")
    return text


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
