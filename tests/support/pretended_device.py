"""An accelerator without one: tensors that say they lie on another device, and are computed on the processor.

As on a real one, an operator refuses tensors of two devices, and the processor waits for the device to read a value.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management as management
import comfy.model_patcher
import comfy.pinned_memory
import comfy_aimdo.host_buffer
import comfy_aimdo.model_vbar
import torch
from comfy.model_patcher import ModelPatcher, ModelPatcherDynamic
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import tiny_models
from postdiff.postdiff_core import clock

CPU = torch.device("cpu")
DEVICE = torch.device("lazy")  # of the types that torch knows, one that it does not try to start

aten = torch.ops.aten
TRANSFERS = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default}
"""These take indices from the processor."""
READS = {
    aten._local_scalar_dense.default,
    aten.count_nonzero.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
}
"""Operators whose result the processor must see to go on."""


class OnDevice(torch.Tensor):
    """A tensor of the processor that says it lies on DEVICE."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnDevice:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        tensor.inner = inner
        return tensor

    def __repr__(self) -> str:
        return f"OnDevice({self.inner!r})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        raise AssertionError(f"{operator} on {DEVICE} outside of pretended_device()")


class PretendedDevice(TorchDispatchMode):
    """While active, tensors can be put on DEVICE. Counts what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.waits: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_transfer = operator in TRANSFERS
        if any(isinstance(tensor, OnDevice) for tensor in tensors):
            self.operators += 1
            others = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.ndim]
            if others and operator not in TRANSFERS | INDEXING:
                raise RuntimeError(f"{operator}: tensors on {DEVICE} and {others[0].device}")
        ends_on_device = _ends_on_device(operator, args, kwargs, tensors)
        is_read = operator in READS or (is_transfer and not ends_on_device)
        if is_read and isinstance(tensors[-1], OnDevice):
            self.waits.append(f"{operator} in {_place()}")
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        args, kwargs = tree_map_only(OnDevice, lambda tensor: tensor.inner, (args, kwargs))
        result = operator(*args, **kwargs)
        return tree_map_only(torch.Tensor, OnDevice, result) if ends_on_device else result


def _ends_on_device(operator: Any, args: tuple, kwargs: dict, tensors: list[torch.Tensor]) -> bool:
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]) == DEVICE
    if operator is aten.copy_.default:
        return isinstance(args[0], OnDevice)
    return any(isinstance(tensor, OnDevice) for tensor in tensors)


def _place() -> str:
    """The lines that asked for an operator, the innermost first, without torch's."""
    frames = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[:-2][:-5:-1])


class _Generator(torch.Generator):
    """Draws on the processor for DEVICE too."""

    def __new__(cls, device: Any = CPU) -> _Generator:
        return super().__new__(cls, device=CPU if torch.device(device) == DEVICE else device)


@contextlib.contextmanager
def pretended_device() -> Iterator[PretendedDevice]:
    """Within, models run on DEVICE, which the host takes for the one of this machine and the pack for a CUDA one."""
    build, free, total = ModelPatcher.__init__, management.get_free_memory, management.get_total_memory

    def build_on_device(self, model, load_device, *args, **kwargs):
        build(self, model, DEVICE, *args, **kwargs)

    lifted_before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=DEVICE) as a transfer
    try:
        with (
            mock.patch.object(ModelPatcher, "__init__", build_on_device),
            mock.patch.object(management, "get_free_memory", lambda device=None, **given: free(CPU, **given)),
            mock.patch.object(management, "get_total_memory", lambda device=None, **given: total(CPU, **given)),
            mock.patch.object(management, "get_torch_device", lambda: DEVICE),
            mock.patch.object(torch, "Generator", _Generator),
            mock.patch.dict(clock.MOMENTS, {DEVICE.type: clock.ProcessorMoment}),
            PretendedDevice() as device,
        ):
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted_before)


class _NoMemory:
    """In place of comfy_aimdo's memory of a device and its buffers on the host: no room for any weight."""

    size = 0

    def __init__(self, *_arguments: Any) -> None: ...

    def alloc(self, size: int) -> tuple[_NoMemory, int, int]:
        return self, 0, size

    def fault(self, *_arguments: Any) -> None:
        """Nothing is there."""

    def loaded_size(self) -> int:
        return 0

    def free_memory(self, _size: int) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_arguments: None


@contextlib.contextmanager
def streamed_weights() -> Iterator[None]:
    """Within, models are dynamic ones, as on NVIDIA GPUs, with no memory left for weights.

    Each layer then fetches its own when it is called. Only within `pretended_device()`.
    """

    def build(model, load_device, offload_device):
        return ModelPatcherDynamic(model, DEVICE, offload_device)

    with (
        mock.patch.object(tiny_models, "ModelPatcher", build),
        mock.patch.object(comfy.model_patcher, "CoreModelPatcher", ModelPatcherDynamic),
        mock.patch.object(comfy_aimdo.model_vbar, "ModelVBAR", _NoMemory),
        mock.patch.object(comfy_aimdo.host_buffer, "HostBuffer", _NoMemory),
        mock.patch.object(comfy.pinned_memory, "get_pin", lambda *args, **kwargs: None),
        mock.patch.object(comfy.pinned_memory, "pin_memory", lambda *args, **kwargs: False),
    ):
        yield
