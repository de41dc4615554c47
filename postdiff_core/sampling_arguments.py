"""What a sampler asks of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .architecture import Size

BATCH_INDEX = "postdiff_batch_index"  # in the model options of a clone


@dataclass(frozen=True)
class SamplingArguments:
    """The arguments of CFGGuider.outer_sample (comfy/samplers.py): one stage of a run."""

    noise: torch.Tensor
    latent_image: torch.Tensor
    sampler: Any
    sigmas: torch.Tensor
    denoise_mask: torch.Tensor | None = None
    callback: Callable | None = None
    disable_pbar: bool = False
    seed: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def run_by(self, executor: Callable) -> torch.Tensor:
        return executor(
            self.noise,
            self.latent_image,
            self.sampler,
            self.sigmas,
            self.denoise_mask,
            self.callback,
            self.disable_pbar,
            self.seed,
            **self.more,
        )

    @property
    def size(self) -> Size:
        """Latent height and width; those of its first part if it is nested, which the host packs into rows."""
        shape, *_ = self.more.get("latent_shapes") or (self.noise.shape,)
        return shape[-2], shape[-1]

    def resized(self, **changes: Any) -> SamplingArguments:
        """The same with other arguments; keeps the shape that the host wants to be told in step with the noise."""
        stage = replace(self, **changes)
        if "latent_shapes" in self.more:
            stage = replace(stage, more={**self.more, "latent_shapes": [stage.noise.shape]})
        return stage


def batch_index_of(guider: Any) -> list[int] | None:
    """Which pictures of a larger batch these are, for their noise; None if they are a batch of their own."""
    return guider.model_options.get(BATCH_INDEX)


def copied_conds(conds: dict[str, Any]) -> dict[str, Any]:
    """A copy of the conditionings, which the host writes into in each run."""
    return {name: [dict(cond) for cond in group] for name, group in conds.items()}
