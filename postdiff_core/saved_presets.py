"""Presets that a user has saved: one small JSON file each, in ComfyUI's user folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import folder_paths

from . import disk
from .schedule import TECHNIQUES, Settings

FORMAT = 1
MAX_NAME_LENGTH = 60
RESERVED_BY_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def folder() -> Path:
    """Where the files lie; they may be copied, renamed and deleted by hand."""
    return Path(folder_paths.get_system_user_directory("postdiff")) / "presets"


def names() -> list[str]:
    """The saved presets, in alphabetical order."""
    files = (file for file in folder().glob("[!.]*.json") if file.is_file())
    return sorted((file.stem for file in files), key=str.casefold)


def file_name(name: str) -> str:
    """A name that every system accepts for a file: letters, digits, spaces and - _ . ( ), at most 60.

    Raises ValueError if nothing is left of it.
    """
    composed = unicodedata.normalize("NFC", name)
    other = re.escape("".join({each for each in composed if not _may_be_in_a_name(each)}))
    cleaned = (re.sub(f"[{other}]+", "_", composed) if other else composed).strip(" ._")
    cleaned = cleaned[:MAX_NAME_LENGTH].strip(" ._")
    if not cleaned:
        raise ValueError(f"{name!r} is not a valid preset name: use letters and digits.")
    return f"{cleaned}_" if RESERVED_BY_WINDOWS.fullmatch(cleaned) else cleaned


def _may_be_in_a_name(character: str) -> bool:
    """Letters of any script, with the marks that some write vowels with."""
    return character.isalnum() or character in " -_.()" or unicodedata.category(character) in ("Mn", "Mc")


def save(name: str, settings: Settings, about: dict[str, Any]) -> Path:
    """Write a preset under the name that `file_name` makes of `name`; `about` says how it was found.

    Raises ValueError if nothing is left of the name, OSError if the disk refuses.
    """
    file = folder() / f"{file_name(name)}.json"
    document = {"format": FORMAT, "settings": dataclasses.asdict(settings), "about": about}
    with disk.whole(file) as partial:
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def fingerprint(name: str) -> str:
    """Tells one content of a preset's file from another; empty where there is none of this name."""
    file = folder() / f"{name}.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if name in names() else ""


def is_complete(name: str) -> bool:
    """Whether the calibration that saved this preset was finished."""
    return bool(_about(name, "complete"))


def steps_of(name: str) -> int | None:
    """The number of steps that a calibration chose with this preset's settings; None if the file does not say."""
    return _about(name, "chosen", "steps")


def load(name: str) -> Settings:
    """The settings of a saved preset. Raises ValueError that names the file, what is wrong and the remedy."""
    if name not in names():
        raise ValueError(
            f"There is no preset {name!r} in {folder()}. Make it with PostDiff Calibrate, copy its file there, or "
            "choose another preset (R in the canvas brings the list up to date)."
        )
    return _settings(folder() / f"{name}.json")


def _about(name: str, *path: str) -> Any:
    """What a preset's file says of how it was found; None if it does not."""
    try:
        found = json.loads((folder() / f"{name}.json").read_text(encoding="utf-8-sig"))["about"]
        for key in path:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found


def _settings(file: Path) -> Settings:
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']}, this version reads {FORMAT}")
        given = document["settings"]
        unknown = sorted(given.keys() - TECHNIQUES.keys())
        if unknown:
            raise ValueError(f"it names techniques that this version does not know: {', '.join(unknown)}")
        return Settings(**{name: TECHNIQUES[name](**values) for name, values in given.items() if values is not None})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        is_plain = isinstance(error, (OSError, ValueError))
        reason = str(error).rstrip(".") if is_plain else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"The preset file {file} cannot be read: {reason}. Calibrate again under this name, or delete the file."
        ) from error
