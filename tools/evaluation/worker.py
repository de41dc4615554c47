"""One process with one device: draws and judges shards of the work. Ray runs it as an actor."""

from __future__ import annotations

import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaluation.drawing import LoadedModel
from evaluation.networks import Judges, Networks
from evaluation.prompts import Prompt
from evaluation.settings import Model
from evaluation.store import Shard, Store
from pack import load_pack, prepare_comfyui


class DeviceLost(RuntimeError):
    """The device of this process is in a state that every further picture would fail in."""


@dataclass(frozen=True)
class Job:
    """What every worker knows. `keep_below`: pictures of prompts of a lower index are saved."""

    root: Path
    models: tuple[Model, ...]
    models_folder: Path
    judges: Judges
    seed: int
    keep_below: int
    device: str  # cpu or cuda

    def seed_of(self, prompt: Prompt) -> int:
        return self.seed + prompt.index


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: how many pictures, and the errors of those that failed."""

    pictures: int
    errors: tuple[str, ...] = ()


class Worker:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._store = Store(job.root)
        self._networks: Networks | None = None
        self._loaded: tuple[str, LoadedModel] | None = None

    def draw(self, shard: Shard) -> Outcome:
        """Draw a shard's prompts with every setting, judge the pictures and store the records."""
        records = self.records(shard)
        self._require_shared_folder()
        self._store.write(shard, records)
        return _outcome(records)

    def see(self, shard: Shard) -> Outcome:
        """Store the features of a shard of real pictures."""
        records = self.real_records(shard)
        self._require_shared_folder()
        self._store.write(shard, records)
        return _outcome(records)

    def records(self, shard: Shard) -> list[dict[str, Any]]:
        """The records of a shard, stored nowhere."""
        networks = self._start()
        model = next(model for model in self._job.models if model.name == shard.model)
        loaded = self._load(model)
        return [record for prompt in shard.prompts for record in self._records(model, loaded, networks, prompt)]

    def real_records(self, shard: Shard) -> list[dict[str, Any]]:
        networks = self._start()
        return [_real_record(Path(file), networks) for file in shard.files]

    def seconds_to_see(self, shard: Shard) -> float:
        """Seconds that the features of one of these real pictures take; the first, which warms up, is not counted."""
        networks = self._start()
        seconds = []
        for file in shard.files:
            started = time.perf_counter()
            _real_record(Path(file), networks)
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds[1:] or seconds)

    def _records(self, model: Model, loaded: LoadedModel, networks: Networks, prompt: Prompt) -> list[dict[str, Any]]:
        """A prompt's records, one a setting. What fails is recorded with its error, and the others go on."""
        common: dict[str, Any] = {
            "model": model.name,
            "prompt_index": prompt.index,
            "source": prompt.source,
            "prompt": prompt.text,
            "seed": self._job.seed_of(prompt),
            "width": model.width,
            "height": model.height,
            "device": self._device_name,
        }
        try:
            if prompt.text is None:
                raise ValueError("The prompts file has no caption here.")
            started = time.perf_counter()
            positive = loaded.encode(prompt.text)
            common["seconds_encode"] = time.perf_counter() - started
        except Exception as error:
            failed = {**common, "error": _described(error)}
            return [{**failed, "setting": setting.name, "steps": setting.steps} for setting in model.settings]
        records, reference = [], None
        for setting in model.in_drawing_order:
            record = {**common, "setting": setting.name, "steps": setting.steps}
            records.append(record)
            try:
                drawn = loaded.draw(setting, positive, self._job.seed_of(prompt))
                judged = _judgement(networks, drawn.picture, prompt.text, reference)
                if prompt.index < self._job.keep_below:
                    record["picture"] = self._store.keep_picture(drawn.picture, model.name, setting.name, prompt)
            except Exception as error:
                record["error"] = _described(error)
                continue
            if setting.name == model.reference:
                reference = drawn.picture
            record |= judged | {
                "seconds_sample": drawn.seconds_sample,
                "seconds_decode": drawn.seconds_decode,
                "macs": drawn.macs,
                "macs_linear": drawn.macs_linear,
                "notes": "\n".join(drawn.notes) or None,
            }
        return records

    def _start(self) -> Networks:
        """Bring up ComfyUI and the judges, once."""
        if self._networks is None:
            prepare_comfyui(cpu=self._job.device == "cpu", base_directory=self._job.root / ".comfyui")
            load_pack()

            import comfy.model_management
            import comfy.utils

            comfy.utils.set_progress_bar_enabled(False)
            device = comfy.model_management.get_torch_device()
            self._device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
            self._networks = Networks(self._job.judges, device)
        return self._networks

    def _load(self, model: Model) -> LoadedModel:
        if self._loaded is None or self._loaded[0] != model.name:
            import comfy.model_management

            self._loaded = None
            comfy.model_management.unload_all_models()
            comfy.model_management.soft_empty_cache()
            self._loaded = (model.name, LoadedModel(model, self._job.models_folder))
        return self._loaded[1]

    def _require_shared_folder(self) -> None:
        if not (self._job.root / "run.json").is_file():
            raise FileNotFoundError(
                f"{self._job.root} on the machine of this worker is not the folder of the evaluation. On several "
                "machines it must be a shared folder with the same path on all of them."
            )


def give_up(store: Store, job: Job, shard: Shard, reason: str) -> Outcome:
    """Record that nothing in this shard could be done."""
    if shard.model:
        model = next(model for model in job.models if model.name == shard.model)
        common = {"model": model.name, "width": model.width, "height": model.height, "error": reason}
        records = [
            {**common, "setting": setting.name, "steps": setting.steps}
            | {"prompt_index": prompt.index, "source": prompt.source, "prompt": prompt.text}
            | {"seed": job.seed_of(prompt)}
            for prompt in shard.prompts
            for setting in model.settings
        ]
    else:
        records = [{"file": Path(file).name, "error": reason} for file in shard.files]
    store.write(shard, records)
    return _outcome(records)


def remove_scratch(root: Path) -> None:
    """What ComfyUI makes in its base folder; empty."""
    shutil.rmtree(root / ".comfyui", ignore_errors=True)


def _judgement(
    networks: Networks, picture: torch.Tensor, prompt: str, reference: torch.Tensor | None
) -> dict[str, Any]:
    started = time.perf_counter()
    features = networks.features(picture)
    return {
        "features": None if features is None else features.numpy(),
        "clip_score": networks.clip_score(picture, prompt),
        "lpips": networks.lpips(picture, reference),
        "seconds_score": time.perf_counter() - started,
    }


def _real_record(file: Path, networks: Networks) -> dict[str, Any]:
    record: dict[str, Any] = {"file": file.name}
    try:
        with Image.open(file) as image:
            picture = torch.from_numpy(np.array(image.convert("RGB")))[None]
        features = networks.features(picture)
        return record | {"features": None if features is None else features.numpy()}
    except Exception as error:
        return record | {"error": _described(error)}


def _described(error: Exception) -> str:
    """The error in words, for a record. Raises DeviceLost where it is not the picture's fault."""
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        raise DeviceLost(str(error)) from error
    return f"{type(error).__name__}: {error}"


def _outcome(records: list[dict[str, Any]]) -> Outcome:
    return Outcome(len(records), tuple(record["error"] for record in records if record.get("error")))
