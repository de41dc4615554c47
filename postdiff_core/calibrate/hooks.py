"""What other nodes hook into a model, as one text: the same for every build of the same graph, in any session."""

from __future__ import annotations

import dis
import functools
import hashlib
import json
from enum import Enum
from operator import itemgetter
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch

PLAIN = (str, bytes, int, float, complex, type(None), torch.dtype)
CALLABLES = (FunctionType, BuiltinFunctionType)
SAMPLES = 1024  # values read of each tensor
DEPTH = 64  # of things within things


def digest_of_hooks(hooks: Any) -> str:
    """Of dicts, lists, functions and what they hold: names and plain values. Of other objects only what they are.

    A function's settings are what its closure and its defaults hold, but for the variables that it, or another function
    among the hooks, sets anew as it runs: they change with every run.
    """
    return _Reader(_state(hooks)).read(hooks)


def samples(tensor: torch.Tensor, number: int) -> bytes:
    """So many of its values, evenly spaced."""
    values = tensor.detach().reshape(-1)
    values = values[:: max(1, values.numel() // number)][:number]
    return values.to("cpu", torch.float32).numpy().tobytes()


class _Reader:
    def __init__(self, state: set[int]) -> None:
        self.state = state
        self.known: dict[int, str] = {}  # by id: all of it is held by the hooks until they are read

    def read(self, value: Any, depth: int = 0) -> str:
        if id(value) in self.known:
            return self.known[id(value)]
        text, held = _text(value), _held(value)
        if not held or id(value) in self.state or depth == DEPTH:
            return text
        self.known[id(value)] = text  # for what holds itself
        parts = [text, *(self.read(each, depth + 1) for each in held)]
        self.known[id(value)] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return self.known[id(value)]


def _text(value: Any) -> str:
    """What tells it from others, without what it holds."""
    if isinstance(value, Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return _text_of_tensor(value)
    if isinstance(value, dict):
        return f"dict {[key for key, _ in _entries(value)]}"
    if isinstance(value, (set, frozenset)):
        return f"set {sorted(filter(None, map(_plain, value)))}"
    if isinstance(value, (list, tuple)):
        return f"{len(value)} things"
    if isinstance(value, MethodType):
        return f"method of {_name(type(value.__self__))}"
    if isinstance(value, (type, *CALLABLES)):
        return _name(value)
    # Classes that are made anew for every noise schedule: their bases alone tell noise from velocity.
    return " ".join(map(_name, type(value).__mro__))


def _held(value: Any) -> list[Any]:
    """What it holds, in an order that does not depend on how it came there."""
    if isinstance(value, dict):
        return [each for _, each in _entries(value)]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, FunctionType):
        return [*(value.__closure__ or ()), value.__defaults__, value.__kwdefaults__]
    if isinstance(value, CellType):
        try:
            return [value.cell_contents]
        except ValueError:  # nothing in it yet
            return []
    if isinstance(value, MethodType):
        return [value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    return []


def _entries(value: dict[Any, Any]) -> list[tuple[str, Any]]:
    """By their keys; those under devices and the like are no settings but what a run keeps."""
    entries = [(_plain(key), each) for key, each in list(value.items())]
    return sorted(((key, each) for key, each in entries if key is not None), key=itemgetter(0))


def _plain(value: Any) -> str | None:
    if isinstance(value, tuple):
        parts = [_plain(each) for each in value]
        return None if None in parts else str(parts)
    return _text(value) if isinstance(value, (*PLAIN, Enum)) else None


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _text_of_tensor(tensor: torch.Tensor) -> str:
    try:
        return f"{tuple(tensor.shape)} {tensor.dtype} {hashlib.sha256(samples(tensor, SAMPLES)).hexdigest()}"
    except (RuntimeError, TypeError):  # has no values, or not in rows
        return f"{_name(type(tensor))} {tensor.dtype} {tensor.layout}"


def _state(hooks: Any) -> set[int]:
    """The ids of all variables (cells) that functions among the hooks set anew as they run."""
    seen, pending, state = set[int](), [hooks], set[int]()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        pending += _held(value)
        if isinstance(value, FunctionType):
            variables = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            state |= {id(cell) for name, cell in variables if name in _set_anew(value.__code__)}
    return state


@functools.lru_cache(maxsize=1024)
def _set_anew(code: CodeType) -> frozenset[str]:
    """The names that it, or a function within it, declares nonlocal and sets."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in ("STORE_DEREF", "DELETE_DEREF")}
    within = [_set_anew(each) for each in code.co_consts if isinstance(each, CodeType)]
    return frozenset(names.union(*within).intersection(code.co_freevars))
