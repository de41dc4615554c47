"""What there is to say of a technique before it runs: its name on the canvas, and on which models it can act."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from . import cross_attn_cache, deep_cache, mixed_resolution
from .schedule import DeepCache, Settings, Technique, field_of


class TechniqueInfo(NamedTuple):
    """A technique's patch node, and why it cannot act on a MODEL whatever its settings (None if it can)."""

    node: str
    refusal: Callable[[Any], str | None]

    @property
    def title(self) -> str:
        """As the canvas names the technique, wherever it was asked for."""
        return self.node.removesuffix(" (patch)")


TECHNIQUE_INFO = {  # by their field in Settings
    "mixed_resolution": TechniqueInfo("Mixed Resolution (patch)", mixed_resolution.refusal),
    "deep_cache": TechniqueInfo("Deep Cache", deep_cache.refusal),
    "cross_attn_cache": TechniqueInfo("Cross-Attention Cache", cross_attn_cache.refusal),
    "cfg_cutoff": TechniqueInfo("CFG Cut-off", lambda model: None),
}


def refusal(model: Any, technique: Technique) -> str | None:
    """Why this technique cannot act on this MODEL, and the remedy; None if it can."""
    reason = TECHNIQUE_INFO[field_of(technique)].refusal(model)
    if reason is not None:
        others = [info.node for info in TECHNIQUE_INFO.values() if info.refusal(model) is None]
        return f"{reason} Use instead: {', '.join(others)}."
    return deep_cache.depth_refusal(model, technique) if isinstance(technique, DeepCache) else None


def refused(model: Any, settings: Settings) -> list[str]:
    """The techniques asked for that cannot act on this MODEL, by their field in Settings."""
    return [name for name, technique in settings.asked.items() if refusal(model, technique) is not None]
