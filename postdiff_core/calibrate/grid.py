"""The settings that a calibration compares: every combination of T, beta, s, k and m (sections 2.4 and 2.5)."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from .. import patch
from ..schedule import TECHNIQUES, CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings, Technique


@dataclass(frozen=True)
class Candidate:
    """A number of steps and what is asked of them; a technique at its neutral setting is absent."""

    steps: int  # T
    settings: Settings

    @property
    def low_res_scale(self) -> float:
        """beta; 1 if all steps run at full size."""
        mixed = self.settings.mixed_resolution
        return mixed.low_res_scale if mixed else 1.0

    @property
    def low_res_until(self) -> float:
        """s; 0 if all steps run at full size."""
        mixed = self.settings.mixed_resolution
        return mixed.low_res_until if mixed else 0.0

    @property
    def interval(self) -> int:
        """k; 1 without a deep cache."""
        return self.settings.deep_cache.interval if self.settings.deep_cache else 1

    @property
    def start_percent(self) -> float:
        """m, the paper's one number for the cross-attention cache and the cut-off; 1 without them."""
        late = self.settings.cross_attn_cache or self.settings.cfg_cutoff
        return late.start_percent if late else 1.0

    def __str__(self) -> str:
        parts = [f"{self.steps} steps"]
        if self.settings.mixed_resolution:
            parts.append(f"beta {self.low_res_scale:g}, s {self.low_res_until:g}")
        if self.settings.deep_cache:
            parts.append(f"k {self.interval}")
        if self.start_percent < 1.0:
            parts.append(f"m {self.start_percent:g}")
        return ", ".join(parts)

    def uncached(self, steps: int) -> Candidate:
        """The run in so many steps that changes resolution as this one does, and computes everything."""
        return Candidate(steps, Settings(mixed_resolution=self.settings.mixed_resolution))


@dataclass(frozen=True)
class Lists:
    """The values of each setting to combine."""

    steps: tuple[int, ...]
    low_res_scale: tuple[float, ...]
    low_res_until: tuple[float, ...]
    interval: tuple[int, ...]
    start_percent: tuple[float, ...]

    def candidates(self, able: Collection[str]) -> list[Candidate]:
        """Every combination once, with the techniques that the model is able to use (fields of Settings)."""
        axes = (self.steps, self.low_res_scale, self.low_res_until, self.interval, self.start_percent)
        combined = (_candidate(*values, able=able) for values in itertools.product(*axes))
        return list(dict.fromkeys(combined))


QUICK = {
    "low_res_scale": (0.5, 0.75),
    "low_res_until": (0.0, 0.2, 0.35, 0.5),
    "interval": (1, 2),
    "start_percent": (0.5, 0.75, 1.0),
}
THOROUGH = {
    "low_res_scale": (0.5, 0.625, 0.75),
    "low_res_until": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "interval": (1, 2, 3),
    "start_percent": (0.45, 0.6, 0.75, 0.9, 1.0),
}


def _candidate(steps: int, beta: float, s: float, k: int, m: float, *, able: Collection[str]) -> Candidate:
    wished: dict[str, Any] = {
        "mixed_resolution": MixedResolution(beta, s) if beta != 1.0 and s != 0.0 else None,
        "deep_cache": DeepCache(k) if k != 1 else None,
        "cross_attn_cache": CrossAttnCache(m) if m != 1.0 else None,
        "cfg_cutoff": CFGCutoff(m) if m != 1.0 else None,
    }
    return Candidate(steps, Settings(**{name: technique for name, technique in wished.items() if name in able}))


def abilities(model: Any, cfg: float) -> tuple[str, ...]:
    """The techniques that can act on this MODEL at this guidance scale, as fields of Settings."""

    def can_act(technique: Technique) -> bool:
        try:
            patch.add(model, technique)
        except ValueError:
            return False
        return True

    able = [name for name, technique in TECHNIQUES.items() if can_act(technique())]
    return tuple(name for name in able if name != "cfg_cutoff" or cfg != 1.0)  # at 1, no negative prompt runs anyway
