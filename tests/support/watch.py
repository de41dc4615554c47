"""What this process does to the world while it is watched: files written, programs and connections started, code made.

By sys.addaudithook, which sees it whatever library did it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGES_OF_FILES = {
    f"os.{name}" for name in ("chmod", "link", "mkdir", "remove", "rename", "rmdir", "symlink", "truncate")
}
OUTSIDE = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.startfile", "webbrowser.")
CODE = ("exec", "compile", "pickle.find_class", "marshal.loads", "ctypes.dlopen", "code.__new__")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Seen:
    """What was seen: `outside` by audit event and its first argument, `code` by audit event and the calling file."""

    written: list[Path] = field(default_factory=list)
    outside: list[tuple[str, str]] = field(default_factory=list)
    code: list[tuple[str, str]] = field(default_factory=list)

    def code_made_in(self, folder: Path) -> list[tuple[str, str]]:
        """What code in this folder evaluated, and everything unpickled."""
        evaluated = ("exec", "compile", "code.__new__")
        return [(event, file) for event, file in self.code if event not in evaluated or folder in Path(file).parents]

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _writes(*arguments):
            self._note_written(arguments[0])
        elif event in CHANGES_OF_FILES:
            self._note_written(*(path for path in arguments[:2] if isinstance(path, (str, bytes, os.PathLike))))
        elif event.startswith(OUTSIDE):
            self.outside.append((event, str(arguments[:1])))
        elif event in CODE:
            self.code.append((event, sys._getframe(2).f_code.co_filename))

    def _note_written(self, *paths: Any) -> None:
        self.written += [Path(os.fsdecode(path)).resolve() for path in paths if not isinstance(path, int)]


def _writes(_path: Any, mode: str | None, flags: int) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool(flags & WRITING)


_watching: list[Seen] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching:
        _watching[-1].note(event, arguments)


@contextmanager
def watched() -> Iterator[Seen]:
    """Yields what is seen, until the block ends."""
    if not hasattr(_hook, "installed"):
        sys.addaudithook(_hook)  # there is no way to remove it
        _hook.installed = True  # type: ignore[attr-defined]
    _watching.append(Seen())
    try:
        yield _watching[-1]
    finally:
        _watching.pop()
