"""The paper's settings per model family (section 3.1), and how a loaded model is recognised."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import comfy.model_base
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy_extras.nodes_model_advanced import ModelSamplingDiscreteDistilled

from . import saved_presets
from .architecture import whole_module
from .schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings

Family = Literal["sd15", "sdxl", "pixart_alpha", "embedded", "unknown"]

PRESETS: dict[str, Settings] = {
    "sd15": Settings(MixedResolution(0.5, 0.5), DeepCache(2, 2), CrossAttnCache(0.75), CFGCutoff(0.75)),
    "lcm": Settings(MixedResolution(0.5, 0.5), None, CrossAttnCache(0.5), CFGCutoff(0.5)),
    "sdxl": Settings(MixedResolution(0.75, 0.2), DeepCache(2, 2), CrossAttnCache(0.75), CFGCutoff(0.75)),
    "pixart_alpha": Settings(MixedResolution(0.75, 0.5), None, CrossAttnCache(0.75), CFGCutoff(0.75)),
    "embedded": Settings(MixedResolution(0.5, 0.5), DeepCache(2, 2), CrossAttnCache(0.75), CFGCutoff(0.75)),
}
# Not in the paper: what is safe on a model that nobody has calibrated.
UNKNOWN = Settings(MixedResolution(0.75, 0.2), None, None, CFGCutoff(0.75))
CHOICES = ("auto", *PRESETS, "off")

SD_CLASSES = (comfy.model_base.BaseModel, comfy.model_base.SD21UNCLIP, comfy.model_base.SD15_instructpix2pix)
MOST_DISTILLED_STEPS = 10
LARGEST_DISTILLED_CFG = 1.5


@dataclass(frozen=True)
class Choice:
    """The settings a preset gave, and why, in words for the log."""

    settings: Settings
    reason: str


def choose(preset: str, model: Any, *, sampler_name: str, cfg: float, steps: int) -> Choice:
    """The settings of a named preset; `auto` looks at the MODEL's family and at whether it is distilled.

    Raises ValueError, naming the remedy, for a preset that is neither built in nor saved.
    """
    if preset == "off":
        return Choice(Settings(), "off: only the patches on the model act")
    if preset in PRESETS:
        return Choice(PRESETS[preset], f"{preset}, as chosen")
    if preset != "auto":
        return Choice(saved_presets.load(preset), f"{preset}, as saved")
    family, distilled = family_of(model), is_distilled(model, sampler_name, cfg, steps)
    name = type(model.model).__name__
    if family in ("sd15", "sdxl") and distilled:
        return Choice(distilled_settings(PRESETS[family]), f"auto: {name} is of the {family} family and distilled")
    if family == "unknown":
        return Choice(UNKNOWN, f"auto: {name} is of no known family, so beta 0.75, s 0.2 and cut-off 0.75 only")
    return Choice(PRESETS[family], f"auto: {name} is of the {family} family")


def choices() -> list[str]:
    """Every preset that can be chosen: the built-in ones, then the saved ones."""
    return [*CHOICES, *(name for name in saved_presets.names() if name not in CHOICES)]


def family_of(model: Any) -> Family:
    """The family of a loaded MODEL, from its class."""
    base = model.model
    diffusion_model = whole_module(base.diffusion_model)
    if getattr(base.model_config, "postdiff_preset", None) == "embedded":
        return "embedded"
    if isinstance(diffusion_model, PixArtMS):
        return "pixart_alpha"
    if isinstance(base, comfy.model_base.SDXL):
        return "sdxl"
    if type(base) in SD_CLASSES and isinstance(diffusion_model, UNetModel):
        return "sd15"
    return "unknown"


def distilled_settings(settings: Settings) -> Settings:
    """The settings for a model distilled to few steps: no deep cache, m = 0.5 (the paper's LCM)."""
    return replace(settings, deep_cache=None, cross_attn_cache=CrossAttnCache(0.5), cfg_cutoff=CFGCutoff(0.5))


def is_distilled(model: Any, sampler_name: str, cfg: float, steps: int) -> bool:
    """Whether a run looks like that of a model distilled to few steps: by its sampling, sampler, or cfg and steps."""
    return (
        isinstance(model.get_model_object("model_sampling"), ModelSamplingDiscreteDistilled)
        or sampler_name == "lcm"
        or (cfg <= LARGEST_DISTILLED_CFG and steps <= MOST_DISTILLED_STEPS)
    )
