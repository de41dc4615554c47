"""What `python dev.py test` holds the pack to: the shipped preset's agreement and detail, each technique's error.

The full run, which is ComfyUI's own, is recorded once for the shipped weights; the rest is drawn anew in every test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _measure import machine
from _quality_encoder import detail
from _quality_runs import Runs, Subject
from _quality_scores import Examiner, Scorebook, likeness
from _quality_settings import ALONE_PAIRS, FULL, GATE_PAIRS, PRESET, Setting, alone
from _results import FOLDER
from tqdm import tqdm

FILE = FOLDER / "quality-gate.json"
REMEDY = "Run `python dev.py bench quality --only gate` and look at what changed before committing its file."
MAX_POINTS_LOST, MAX_GROWTH, MAX_DETAIL_LOST = 3.0, 0.2, 0.15
BATCH = 8


class NoRecord(Exception):
    """There is nothing to compare with; the message says how to make it."""


def record(runs: Runs, scorebook: Scorebook, examiner: Examiner, device: str) -> str:
    """Write the record of these weights; returns one line about it."""
    missing = runs.missing(FULL, GATE_PAIRS)
    for some in tqdm(missing, desc="full run", unit="run", disable=None):
        runs.draw(FULL, some)
    for some in runs.shards(FULL).ranges():
        scorebook.score(FULL, some)
    right = scorebook.read(FULL, GATE_PAIRS)["right"].numpy()
    full = drawn(runs.subject, FULL, range(ALONE_PAIRS))
    document = {
        "weights": runs.subject.weights_hash,
        "pairs": runs.subject.key,
        "full_right": "".join(str(int(each)) for each in right),
        "errors": errors(runs.subject, examiner, full),
        "preset_detail": mean_detail(drawn(runs.subject, PRESET, range(GATE_PAIRS))),
        "machine": machine(device),
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return f"{FILE.name}: the full run draws {right.mean():.3f} of {GATE_PAIRS} pairs right."


def recorded(subject: Subject, file: Path = FILE) -> dict[str, Any]:
    """The record of the shipped weights. Raises NoRecord if it is of others."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if found.get("pairs") != subject.key:
        raise NoRecord(f"{file.name} is not of the shipped weights ({subject.weights_hash[:12]}). {REMEDY}")
    return found


def drawn(subject: Subject, setting: Setting, pairs: range) -> torch.Tensor:
    """Pictures of these pairs, drawn now."""
    runs = [range(first, min(first + BATCH, pairs.stop)) for first in range(pairs.start, pairs.stop, BATCH)]
    shown = tqdm(runs, desc=setting.name, unit="run", disable=None)
    return torch.cat([subject.decode(subject.draw(setting, some)) for some in shown])


def right(subject: Subject, examiner: Examiner, pictures: torch.Tensor) -> np.ndarray:
    """Which of the first pictures show what their prompts say."""
    prompts = [subject.prompt(pair) for pair in range(len(pictures))]
    return examiner.judged(pictures, prompts)["right"].numpy()


def mean_detail(pictures: torch.Tensor) -> float:
    """Laplacian energy of these pictures, which agreement and error, looking at small crops, do not see."""
    return float(np.mean([detail(picture.numpy()) for picture in pictures]))


def errors(subject: Subject, examiner: Examiner, full: torch.Tensor) -> dict[str, float]:
    """The picture error of each technique alone, on the pairs of `full`.

    For those that keep the composition the distance from the full run's pictures; for mixed resolution, which does not,
    the distance from the prompts' training pictures.
    """
    prompts = [subject.prompt(pair) for pair in range(len(full))]
    found = {}
    for setting in alone():
        pictures = drawn(subject, setting, range(len(full)))
        if setting.keeps_composition:
            found[setting.name] = float(likeness(pictures, full)["difference"].mean())
        else:
            found[setting.name] = float(examiner.judged(pictures, prompts)["error"].mean())
    return found


def recorded_right(record: Mapping[str, Any]) -> list[bool]:
    """Which of the first pairs the full run draws right."""
    return [each == "1" for each in record["full_right"]]


def agreement_lost(full: Sequence[bool] | np.ndarray, ours: Sequence[bool] | np.ndarray) -> str | None:
    """What is wrong with a setting that draws these of the pairs right; None if nothing is."""
    lost = 100 * (int(np.sum(full)) - int(np.sum(ours))) / len(ours)
    if lost <= MAX_POINTS_LOST:
        return None
    return f"{lost:.1f} points of prompt agreement are lost against the full run; at most {MAX_POINTS_LOST:g} may be."


def detail_lost(record: Mapping[str, Any], found: float) -> str | None:
    """What is wrong with a preset whose pictures have this mean detail; None if nothing is."""
    lost = 1 - found / record["preset_detail"]
    if lost <= MAX_DETAIL_LOST:
        return None
    return f"The preset's pictures have lost {lost:.0%} of the detail on record; at most {MAX_DETAIL_LOST:.0%} may be."


def grown_errors(record: Mapping[str, Any], found: Mapping[str, float]) -> list[str]:
    """The techniques whose picture error grew too much over its record."""
    return [
        f"The picture error of {name} is {found[name]:.4f}, more than {MAX_GROWTH:.0%} over its record {before:.4f}."
        for name, before in record["errors"].items()
        if found[name] > before * (1 + MAX_GROWTH)
    ]
