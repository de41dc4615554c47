"""Writing files so that whatever ends the process leaves whole ones, and a disk that refuses is named."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say of what fails to be written where and what to do. Raises OSError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"PostDiff cannot write in {folder}: {error}. Free some space on that disk or make the folder writable, "
            "then queue again: what was written before is kept."
        ) from error


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write `file` at; it takes the place of `file` once all is written. Raises OSError."""
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with writing(file.parent):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            partial.replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
