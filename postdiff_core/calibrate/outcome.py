"""What a calibration leaves: its choice, as a preset under the user's name."""

from __future__ import annotations

import datetime
import logging

from .. import saved_presets
from . import table
from .calibration import Calibration, Result

log = logging.getLogger("postdiff")


def title(calibration: Calibration) -> str:
    """What the settings are found for, in a line."""
    model, sampling = calibration.runs.model, calibration.runs.sampling
    return (
        f"{type(model.model).__name__}, {sampling.width} x {sampling.height}, {sampling.sampler_name}, "
        f"{sampling.scheduler}, cfg {sampling.cfg:g}"
    )


def save(name: str, calibration: Calibration, result: Result) -> None:
    """Save the chosen settings as a preset, with what they were found by."""
    about = {
        "calibrated_for": title(calibration),
        "store": calibration.runs.store.folder.name,
        "date": datetime.date.today().isoformat(),
        "complete": result.complete,
        "chosen": table.document(result)["chosen"],
        "score": result.score_name,
    }
    file = saved_presets.save(name, result.chosen.candidate.settings, about)
    log.info("PostDiff calibration: %s. Saved as %s.", result.chosen.candidate, file)


def keep_best_so_far(name: str, calibration: Calibration) -> None:
    """After an interruption: as a preset, unless there is one of this name."""
    if calibration.search.choice() is None or name in saved_presets.names():
        return
    save(name, calibration, calibration.result(complete=False))
