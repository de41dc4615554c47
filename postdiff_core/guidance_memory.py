"""What guidance functions of other nodes remember from step to step, at a change of resolution."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import CellType
from typing import Any

import torch

from .architecture import Size

APG_MOMENTUM = "running_avg"  # comfy_extras/nodes_apg.py; 0 when it begins


@contextlib.contextmanager
def fresh_guidance_memory(guider: Any, low: Size) -> Iterator[None]:
    """Make guidance functions of other nodes forget predictions of stage 1, however it ends.

    Their variables are as before the run then, except APG's momentum, which starts at zero in stage 2: its old value
    may come from a run of another size, and APG itself starts anew only where sigma rises.
    """
    options = guider.model_options
    functions = [*options.get("sampler_pre_cfg_function", ()), *options.get("sampler_post_cfg_function", ())]
    functions.append(options.get("sampler_cfg_function"))
    remembered = [_closure(function) for function in functions]

    def forget(momentum: bool) -> None:
        for variables in remembered:
            if not any(_is_of_size(cell.cell_contents, low) for cell, _ in variables.values()):
                continue
            for name, (cell, before) in variables.items():
                cell.cell_contents = 0 if momentum and name == APG_MOMENTUM else before

    try:
        yield
    except BaseException:
        forget(momentum=False)
        raise
    forget(momentum=True)


def _closure(function: Callable | None) -> dict[str, tuple[CellType, Any]]:
    """The variables that a nested function shares with the one around it, by name, and their contents."""
    variables, cells = {}, getattr(function, "__closure__", None)
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True) if function and cells else ():
        with contextlib.suppress(ValueError):  # never assigned
            variables[name] = cell, cell.cell_contents
    return variables


def _is_of_size(value: Any, size: Size) -> bool:
    return isinstance(value, torch.Tensor) and tuple(value.shape[-2:]) == size
