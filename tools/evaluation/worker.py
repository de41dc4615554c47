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

from evaluation.drawing import Drawn, LoadedModel
from evaluation.networks import Judges, Networks
from evaluation.prompts import Prompt
from evaluation.settings import Model, Setting
from evaluation.store import Shard, Store
from pack import load_pack, prepare_comfyui


class DeviceLost(RuntimeError):
    """The device of this process is in a state that every further picture would fail in."""


@dataclass(frozen=True)
class Job:
    """What every worker knows. Prompt i is drawn with seed `seed` + i, and its pictures kept if i < `keep_below`."""

    root: Path
    models: tuple[Model, ...]
    models_folder: Path
    judges: Judges
    seed: int
    keep_below: int
    device: str  # cpu or cuda


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
        records = [_asked(self._job, model, setting, prompt) for setting in model.in_drawing_order]
        reference: torch.Tensor | None = None
        try:
            positive, seconds_encode = _encoded(loaded, prompt)
        except Exception as error:
            return [record | {"error": _described(error)} for record in records]
        for setting, record in zip(model.in_drawing_order, records, strict=True):
            record |= {"seconds_encode": seconds_encode, "device": self._device_name}
            try:
                drawn = loaded.draw(setting, positive, record["seed"])
                record |= _judged(networks, drawn, prompt, reference)
                if prompt.index < self._job.keep_below:
                    record["picture"] = self._store.keep_picture(drawn.picture, model.name, setting.name, prompt)
            except Exception as error:
                record["error"] = _described(error)
            else:
                reference = drawn.picture if setting.name == model.reference else reference
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
    records: list[dict[str, Any]] = [{"file": Path(file).name} for file in shard.files]
    for model in job.models:
        if model.name == shard.model:
            records += [
                _asked(job, model, setting, prompt) for prompt in shard.prompts for setting in model.in_drawing_order
            ]
    records = [record | {"error": reason} for record in records]
    store.write(shard, records)
    return _outcome(records)


def remove_scratch(root: Path) -> None:
    """What ComfyUI makes in its base folder; empty."""
    shutil.rmtree(root / ".comfyui", ignore_errors=True)


def _asked(job: Job, model: Model, setting: Setting, prompt: Prompt) -> dict[str, Any]:
    """The part of a picture's record that is known before it is drawn."""
    return {
        "model": model.name,
        "setting": setting.name,
        "prompt_index": prompt.index,
        "source": prompt.source,
        "prompt": prompt.text,
        "seed": job.seed + prompt.index,
        "width": model.width,
        "height": model.height,
        "steps": setting.steps,
    }


def _encoded(loaded: LoadedModel, prompt: Prompt) -> tuple[Any, float]:
    """CONDITIONING, and the seconds it took."""
    if prompt.text is None:
        raise ValueError("The prompts file has no caption here.")
    started = time.perf_counter()
    return loaded.encode(prompt.text), time.perf_counter() - started


def _judged(networks: Networks, drawn: Drawn, prompt: Prompt, reference: torch.Tensor | None) -> dict[str, Any]:
    """The part of a picture's record that drawing and judging give."""
    assert prompt.text is not None
    started = time.perf_counter()
    features = networks.features(drawn.picture)
    scores = {
        "clip_score": networks.clip_score(drawn.picture, prompt.text),
        "lpips": networks.lpips(drawn.picture, reference),
    }
    return scores | {
        "features": None if features is None else features.numpy(),
        "seconds_score": time.perf_counter() - started,
        "seconds_sample": drawn.seconds_sample,
        "seconds_decode": drawn.seconds_decode,
        "macs": drawn.macs,
        "macs_linear": drawn.macs_linear,
        "notes": "\n".join(drawn.notes) or None,
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
