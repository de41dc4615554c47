"""What a calibration has drawn and scored so far, on disk: an interrupted one goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .. import disk
from .fingerprint import digest_of

SCORES = "scores.jsonl"
ABOUT = "about.json"

Description = dict[str, Any]


class Store:
    """One folder per model and sampling settings: a latent per run, and a line per score.

    A run is described by plain data. Writing is atomic (latents) or by whole lines (scores), so that whatever ends the
    process leaves only what is complete; a damaged file counts as missing. Where the disk refuses, OSError says so.
    """

    def __init__(self, folder: Path, about: Description) -> None:
        self.folder = folder / f"{about['model_class']}-{digest_of(about)}"
        with disk.writing(self.folder):
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            (self.folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            self._scores = self._read_scores()

    def clear(self) -> None:
        """Forget everything."""
        self._scores.clear()
        with disk.writing(self.folder):
            (self.folder / SCORES).unlink(missing_ok=True)
            for run in (self.folder / "runs").iterdir():
                run.unlink()

    def latent(self, run: Description) -> torch.Tensor | None:
        """The latent of a run in 32 bit; None if it has not been made."""
        try:
            return load_file(self._file(run))["latent"].float()
        except Exception:  # missing, or damaged in whatever way: drawn again
            return None

    def put_latent(self, run: Description, latent: torch.Tensor) -> None:
        """Keep a latent, in 16 bit."""
        with disk.whole(self._file(run)) as partial:
            save_file({"latent": latent.to("cpu", torch.float16).contiguous()}, partial, {"run": json.dumps(run)})

    def score(self, run: Description, by: str) -> dict[str, float] | None:
        """What the score called `by` found for a run; None if it has not been scored."""
        return self._scores.get((digest_of(run), by))

    def put_score(self, run: Description, by: str, values: dict[str, float]) -> None:
        self._scores[digest_of(run), by] = values
        with disk.writing(self.folder), open(self.folder / SCORES, "a", encoding="utf-8") as file:
            print(json.dumps({"run": digest_of(run), "by": by, "values": values}), file=file)

    def _file(self, run: Description) -> Path:
        return self.folder / "runs" / f"{digest_of(run)}.safetensors"

    def _read_scores(self) -> dict[tuple[str, str], dict[str, float]]:
        file = self.folder / SCORES
        text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
        if text and not text.endswith("\n"):  # the process was killed while writing: the next line begins a new one
            file.write_text(text + "\n", encoding="utf-8")
        records = [record for line in text.splitlines() if (record := _parsed(line))]
        return {(record["run"], record["by"]): record["values"] for record in records}


def _parsed(line: str) -> dict[str, Any] | None:
    """A record; None for a damaged line, such as the last of a process that was killed."""
    try:
        record = json.loads(line)
        return record if record.keys() >= {"run", "by", "values"} else None
    except (ValueError, AttributeError, RecursionError):
        return None
