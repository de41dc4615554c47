"""What to draw: models and the settings to compare on each, from a TOML or JSON file."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pack import ROOT

FIGURES = ("fid", "clip_score", "flops", "latency")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class SettingsError(ValueError):
    """The settings file, or a name in it, cannot be used."""


@dataclass(frozen=True)
class Setting:
    """One row of the table: a number of steps, and the techniques by name with their own settings."""

    name: str
    steps: int
    techniques: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)  # the paper's figures; they decide nothing

    @property
    def mixes(self) -> bool:
        return "mixed_resolution" in self.techniques

    @property
    def caches(self) -> bool:
        return any(name in self.techniques for name in ("deep_cache", "cross_attn_cache", "cfg_cutoff"))


@dataclass(frozen=True)
class Model:
    """A model, how it samples, and the settings to compare; LPIPS is measured against the `reference` setting.

    Its files are paths below ComfyUI's models folder, or absolute: a `checkpoint`, or a `diffusion_model` with
    `text_encoders` (and their `clip_type`) and a `vae`. Without any, it is the pack's embedded model.
    """

    name: str
    title: str
    width: int
    height: int
    cfg: float
    sampler_name: str
    scheduler: str
    settings: tuple[Setting, ...]
    reference: str
    negative: str = ""
    checkpoint: str | None = None
    diffusion_model: str | None = None
    text_encoders: tuple[str, ...] = ()
    clip_type: str = "stable_diffusion"
    vae: str | None = None
    loras: tuple[str, ...] = ()
    lcm_sampling: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        single = (self.checkpoint, self.diffusion_model, self.vae)
        return (*filter(None, single), *self.text_encoders, *self.loras)

    @property
    def in_drawing_order(self) -> tuple[Setting, ...]:
        """The reference first: the others are compared with it."""
        return tuple(sorted(self.settings, key=lambda setting: setting.name != self.reference))

    def identity(self) -> dict[str, Any]:
        """All that decides what is drawn, as plain data."""
        document = json.loads(json.dumps(dataclasses.asdict(self)))
        del document["title"]
        for setting in document["settings"]:
            del setting["published"]
        return document


def read(path: Path) -> tuple[Model, ...]:
    """The models of a settings file. Raises SettingsError that names the place in the file."""
    try:
        document = _parse(path)
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    models = document.get("models")
    if not isinstance(models, dict) or not models:
        raise SettingsError(f"{path} names no model. It needs a table [models.NAME] for each.")
    try:
        return tuple(_model(name, given) for name, given in models.items())
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def select(models: tuple[Model, ...], names: list[str] | None) -> tuple[Model, ...]:
    """The models asked for by name; all without names."""
    known = {model.name: model for model in models}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise SettingsError(f"There is no model {unknown[0]!r} in the settings file; it has {', '.join(known)}.")
    return tuple(known[name] for name in dict.fromkeys(names)) if names else models


def _parse(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    import tomllib  # Python 3.11

    return tomllib.loads(text)


def _model(name: str, given: Any) -> Model:
    where = f"[models.{name}]"
    _require_name(name, where)
    _require_fields(given, Model, where, but=("name",))
    rows = given.get("settings")
    if not isinstance(rows, dict) or not rows:
        raise SettingsError(f"{where} names no setting. It needs a table [models.{name}.settings.NAME] for each.")
    settings = tuple(_setting(row, values, f"[models.{name}.settings.{row}]") for row, values in rows.items())
    if given["reference"] not in rows:
        raise SettingsError(f"{where} has the reference {given['reference']!r}, which is none of its settings.")
    lists = {key: tuple(given[key]) for key in ("text_encoders", "loras") if key in given}
    values: dict[str, Any] = {**given, **lists, "name": name, "settings": settings}
    model = Model(**values)
    if model.diffusion_model and not (model.text_encoders and model.vae):
        raise SettingsError(f"{where} has a diffusion_model: name its text_encoders and its vae too.")
    if model.checkpoint and model.diffusion_model:
        raise SettingsError(f"{where} has both a checkpoint and a diffusion_model: name one of them.")
    return model


def _setting(name: str, given: Any, where: str) -> Setting:
    _require_name(name, where)
    if not isinstance(given, dict) or not isinstance(given.get("steps"), int) or given["steps"] < 1:
        raise SettingsError(f"{where} needs its number of steps.")
    known = schedule().TECHNIQUES
    unknown = set(given) - {"steps", "published", *known}
    if unknown:
        raise SettingsError(f"{where} has an unknown {min(unknown)!r}; known are steps and {', '.join(known)}.")
    techniques = {key: given[key] for key in known if key in given}
    for key, values in techniques.items():
        try:
            known[key](**values)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{where}, {key}: {error}") from error
    published = given.get("published", {})
    if set(published) - set(FIGURES):
        raise SettingsError(f"{where} has published figures other than {', '.join(FIGURES)}.")
    return Setting(name, given["steps"], techniques, published)


def _require_name(name: str, where: str) -> None:
    if not NAME.fullmatch(name):
        raise SettingsError(f"{where}: {name!r} becomes the name of a folder; use letters, digits and . _ + - only.")


def _require_fields(given: Any, form: type, where: str, but: tuple[str, ...]) -> None:
    fields = {each.name: each for each in dataclasses.fields(form) if each.name not in but}
    if not isinstance(given, dict):
        raise SettingsError(f"{where} is no table.")
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise SettingsError(f"{where} has an unknown {unknown[0]!r}; known are {', '.join(fields)}.")
    missing = [name for name, each in fields.items() if name not in given and each.default is dataclasses.MISSING]
    if missing:
        raise SettingsError(f"{where} lacks {', '.join(missing)}.")


def schedule() -> ModuleType:
    """postdiff_core/schedule.py by itself: it needs no ComfyUI, and neither does reading a settings file."""
    name = "postdiff_schedule"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "postdiff_core" / "schedule.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
