"""Node packs of other people, loaded from folders that the user names, as ComfyUI loads what is in custom_nodes."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nodes
from comfy_api.latest import io

from composition import Row


@dataclass(frozen=True)
class Pack:
    """A pack at a commit, and the rows made of its nodes. `has` is the name of one of them."""

    repository: str
    commit: str
    rows: tuple[Row, ...]
    has: str

    @property
    def is_loaded(self) -> bool:
        return self.has in nodes.NODE_CLASS_MAPPINGS


def load(folder: Path) -> None:
    """Import a pack and register its nodes. Raises RuntimeError if ComfyUI cannot."""
    _prepare_for_servers_routes()
    _load_builtin_nodes()
    if not asyncio.run(nodes.load_custom_node(os.fspath(folder.resolve()))):
        raise RuntimeError(f"ComfyUI could not import {folder}; the log above says why.")


def run(kind: str, **given: Any) -> tuple[Any, ...]:
    """What a node gives for these inputs, the others being at their defaults."""
    node_class = nodes.NODE_CLASS_MAPPINGS[kind]
    declared = node_class.INPUT_TYPES()
    unknown = given.keys() - {name for group in declared.values() for name in group}
    if unknown:
        raise TypeError(f"{kind} has no input {', '.join(sorted(unknown))}.")
    arguments = {name: default(each) for name, each in declared.get("required", {}).items()} | given
    is_new = issubclass(node_class, io.ComfyNode)
    output = (node_class.execute if is_new else getattr(node_class(), node_class.FUNCTION))(**arguments)
    if isinstance(output, io.NodeOutput):
        return output.args
    return tuple(output["result"] if isinstance(output, dict) else output)


def module_beside(kind: str, name: str = "") -> ModuleType:
    """The module that a node comes from, or another one of the same package."""
    found = nodes.NODE_CLASS_MAPPINGS[kind].__module__
    return sys.modules[f"{found.rpartition('.')[0]}.{name}" if name else found]


def default(declared: Any) -> Any:
    """What a node's input is when nobody touches it."""
    kind, options = declared[0], declared[1] if len(declared) > 1 else {}
    choices = kind if isinstance(kind, (list, tuple)) else options.get("options", [None])
    return options.get("default", choices[0] if choices else None)


def _prepare_for_servers_routes() -> None:
    """Many packs add routes to the server as they are imported, so there must be one."""
    import server

    if getattr(server.PromptServer, "instance", None) is None:
        server.PromptServer(asyncio.new_event_loop())


@functools.cache
def _load_builtin_nodes() -> None:
    """A server has loaded them before it loads packs, and some packs look for them."""
    asyncio.run(nodes.init_builtin_extra_nodes())
