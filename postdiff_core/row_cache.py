"""What model calls computed, kept for later ones by conditioning."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch

from .architecture import Size
from .branches import Branch, Chunk


class Cached(NamedTuple):
    """Rows `span` of `tensor`, computed for a latent of this height and width."""

    tensor: torch.Tensor
    span: slice
    latent: Size

    @property
    def rows(self) -> torch.Tensor:
        return self.tensor[self.span]


class RowCache:
    """Tensors that a model call computed, by place in the model and branch."""

    def __init__(self) -> None:
        self._entries: dict[tuple[Hashable, Branch], Cached] = {}

    def store(self, place: Hashable, chunks: Sequence[Chunk], tensor: torch.Tensor, latent: Size) -> None:
        """Keep `tensor` (batch first), which holds these chunks in order, and nothing else."""
        start = 0
        for chunk in chunks:
            stop = start + chunk.span.stop - chunk.span.start
            self._entries[place, chunk.branch] = Cached(tensor, slice(start, stop), latent)
            start = stop

    def put(self, place: Hashable, branch: Branch, tensor: torch.Tensor, latent: Size) -> None:
        """Keep `tensor` as all of what `branch` has at `place`."""
        self._entries[place, branch] = Cached(tensor, slice(0, tensor.shape[0]), latent)

    def get(self, place: Hashable, branch: Branch) -> Cached | None:
        return self._entries.get((place, branch))

    def on_any_device(self, place: Hashable, branch: Branch) -> Branch | None:
        """`branch`, or the same on another GPU where they share a batch, whichever is kept at `place`."""
        kept = [
            other for at, other in list(self._entries) if at == place and other._replace(device=branch.device) == branch
        ]
        return branch if branch in kept else next(iter(kept), None)

    def drop(self, place: Hashable, branch: Branch) -> None:
        self._entries.pop((place, branch), None)

    def drop_windows(self, place: Hashable) -> None:
        """Drop what is kept at `place` for windows of frames."""
        for at, branch in list(self._entries):
            if at == place and branch.window is not None:
                self.drop(at, branch)

    def clear(self) -> None:
        self._entries.clear()

    @property
    def bytes(self) -> int:
        """Memory held, counted from storages: slices of one tensor count once."""
        storages = [cached.tensor.untyped_storage() for cached in list(self._entries.values())]  # other threads store
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def keeper(chunks: Sequence[Chunk], batch: int, *, copy: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that takes these chunks out of a tensor of `batch` rows, so that the others do not stay in memory.

    If they are all of its rows, the tensor itself is kept, or a copy where someone may still write to it.
    """
    spans = [chunk.span for chunk in chunks]
    if sum(span.stop - span.start for span in spans) == batch:
        return torch.clone if copy else lambda tensor: tensor
    return lambda tensor: torch.cat([tensor[span] for span in spans])


def join(parts: Sequence[Cached]) -> torch.Tensor:
    """The rows of `parts` in order, as one tensor; without a copy if they are one tensor's rows in order."""
    (tensor, span, _), position = parts[0], parts[0].span.start
    for part in parts:
        if part.tensor is not tensor or part.span.start != position:
            return torch.cat([part.rows for part in parts])
        position = part.span.stop
    return tensor[span.start : position]
