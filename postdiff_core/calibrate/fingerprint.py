"""What tells one loaded model from another, in every session: its architecture, samples of its weights, its patches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from .hooks import digest_of_hooks, samples

SAMPLES = 16  # values read of each tensor


def fingerprint(patcher: Any) -> str:
    """Twelve hexadecimal digits for a ModelPatcher: cheap, and the same whether it is loaded or not.

    Weights are read as they were loaded, also while a LoRA is merged into them; LoRAs count by their strengths and
    samples of their own weights. What other nodes hook into the model counts by its functions, the numbers and texts
    that those were made with, and the options set; of objects only by their types, not by the settings inside them.
    """
    digest = hashlib.sha256(type(patcher.model).__name__.encode())
    for name, tensor in sorted(_state(patcher).items()):
        saved = patcher.backup.get(name)
        _add(digest, name, tensor if saved is None else saved.weight)
    for name in sorted(patcher.patches):
        for strength, patch, strength_model, *_ in patcher.patches[name]:
            digest.update(f"{name} {strength} {strength_model} {type(patch).__name__}".encode())
            for tensor in _tensors(patch):
                _add(digest, name, tensor)
    hooks = [patcher.object_patches, patcher.model_options, patcher.wrappers, patcher.callbacks, patcher.injections]
    digest.update(digest_of_hooks(hooks).encode())
    return digest.hexdigest()[:12]


def digest_of(document: Any) -> str:
    """Twelve hexadecimal digits for a JSON document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def _state(patcher: Any) -> dict[str, torch.Tensor]:
    """The model's tensors with this patcher's objects in their places, whichever clone's are in the model now."""
    state = patcher.model.state_dict()
    for place in {*patcher.object_patches, *patcher.object_patches_backup}:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(f"{place}.")}
        patched = patcher.get_model_object(place)
        if isinstance(patched, torch.nn.Module):
            state |= {f"{place}.{name}": tensor for name, tensor in patched.state_dict().items()}
    return state


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(samples(tensor, SAMPLES))


def _tensors(patch: Any) -> Iterator[torch.Tensor]:
    """The tensors of a weight patch: an adapter of comfy.weight_adapter, or nested tuples."""
    if isinstance(patch, torch.Tensor):
        yield patch
    elif isinstance(patch, (tuple, list)):
        for part in patch:
            yield from _tensors(part)
    elif hasattr(patch, "weights"):
        yield from _tensors(patch.weights)
