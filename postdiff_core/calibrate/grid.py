"""The settings that a calibration compares: every combination of T, beta, s, k and m (sections 2.4 and 2.5).

Beside the paper's numbers the fraction at which the deep cache begins, which is 0 there: on some models it decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from ..schedule import TECHNIQUES, CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings, Technique
from ..techniques import refusal


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
    def deep_cache_start(self) -> float:
        """Where the deep cache begins; 0 without one."""
        return self.settings.deep_cache.start_percent if self.settings.deep_cache else 0.0

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
            begins = f" from {self.deep_cache_start:g}" if self.deep_cache_start else ""
            parts.append(f"k {self.interval}{begins}")
        if self.start_percent < 1.0:
            parts.append(f"m {self.start_percent:g}")
        return ", ".join(parts)

    def uncached(self, steps: int) -> Candidate:
        """The reference run: the same change of resolution in `steps` steps, nothing cached or cut off."""
        return Candidate(steps, Settings(mixed_resolution=self.settings.mixed_resolution))


@dataclass(frozen=True)
class Grid:
    """The values of each setting to combine; `mixed_resolution` is what decides the rest of a change of resolution."""

    steps: tuple[int, ...]
    low_res_scale: tuple[float, ...]
    low_res_until: tuple[float, ...]
    interval: tuple[int, ...]
    deep_cache_start: tuple[float, ...]
    start_percent: tuple[float, ...]
    mixed_resolution: MixedResolution = field(default_factory=MixedResolution)

    def candidates(self, usable: Collection[str]) -> list[Candidate]:
        """Every combination once, with the techniques that the model can use (fields of Settings)."""
        early = (self.steps, self.low_res_scale, self.low_res_until)
        combined = itertools.product(*early, self.interval, self.deep_cache_start, self.start_percent)
        return list(dict.fromkeys(self._candidate(*values, usable=usable) for values in combined))

    def _candidate(
        self, steps: int, beta: float, s: float, k: int, deep_from: float, m: float, *, usable: Collection[str]
    ) -> Candidate:
        mixed = replace(self.mixed_resolution, low_res_scale=beta, low_res_until=s)
        wished: dict[str, Technique] = {
            "mixed_resolution": mixed,
            "deep_cache": DeepCache(k, start_percent=deep_from),
            "cross_attn_cache": CrossAttnCache(m),
            "cfg_cutoff": CFGCutoff(m),
        }
        asked: dict[str, Any] = {name: each for name, each in wished.items() if name in usable and not each.is_off}
        return Candidate(steps, Settings(**asked))


QUICK = {
    "low_res_scale": (0.5, 0.75),
    "low_res_until": (0.0, 0.2, 0.35, 0.5),
    "interval": (1, 2),
    "deep_cache_start": (0.0, 0.25),
    "start_percent": (0.5, 0.75, 1.0),
}
THOROUGH = {
    "low_res_scale": (0.5, 0.625, 0.75),
    "low_res_until": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "interval": (1, 2, 3),
    "deep_cache_start": (0.0, 0.25),
    "start_percent": (0.45, 0.6, 0.75, 0.9, 1.0),
}


def usable_techniques(model: Any, cfg: float) -> tuple[str, ...]:
    """The techniques that can act on this MODEL at this guidance scale, as fields of Settings."""
    usable = [name for name, technique in TECHNIQUES.items() if refusal(model, technique()) is None]
    return tuple(name for name in usable if name != "cfg_cutoff" or cfg != 1.0)  # at 1, no negative prompt runs anyway
