"""What a run may have left behind: on the model's modules and options, and in memory."""

from __future__ import annotations

import gc
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

PATCHER_STATE = ("model_options", "wrappers", "callbacks", "patches", "object_patches", "hook_patches", "attachments")
OF_THE_HOST = {"current_patcher", "latent_shapes"}  # what it keeps on the model of the run before


def state(patcher: ModelPatcher) -> dict[str, Any]:
    """Everything a run could have changed about a model and its patcher, for comparison with `==`.

    Attributes are compared by identity, containers item by item, weights and buffers by value.
    """
    modules = {
        f"module {name}": {key: _comparable(value) for key, value in vars(module).items() if key not in OF_THE_HOST}
        for name, module in patcher.model.named_modules()
    }
    weights = {
        f"weight {name}": (id(weight), weight.float().sum().item(), weight.float().square().sum().item())
        for name, weight in patcher.model.state_dict(keep_vars=True).items()
    }
    patches = {name: _comparable(vars(patcher)[name]) for name in PATCHER_STATE}
    return modules | weights | patches


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what is not as it was."""
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]


def live_tensors(*, collect: bool = True) -> dict[int, torch.Tensor]:
    """Every tensor that Python still holds, by identity; without `collect` also what is garbage in a cycle."""
    if collect:
        gc.collect()
    return {id(candidate): candidate for candidate in gc.get_objects() if type(candidate) is torch.Tensor}


def live_bytes(*, collect: bool = True) -> int:
    """Memory of all tensors that Python still holds; views of one storage count once."""
    tensors = live_tensors(collect=collect).values()
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return id(value)
