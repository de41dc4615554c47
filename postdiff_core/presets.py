"""The paper's settings per model family (section 3.1), and how a loaded model is recognised."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import comfy.model_base
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.pixart.pixartms import PixArtMS
from comfy.model_base import ModelType
from comfy.supported_models import SD20
from comfy_extras.nodes_model_advanced import ModelSamplingDiscreteDistilled

from . import saved_presets
from .architecture import Size, whole_module
from .schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings
from .techniques import TECHNIQUE_INFO, refused

Family = Literal["sd15", "sdxl", "pixart_alpha", "embedded", "unknown"]

PRESETS: dict[str, Settings] = {
    "sd15": Settings(MixedResolution(0.5, 0.5), DeepCache(2, 2), CrossAttnCache(0.75), CFGCutoff(0.75)),
    "lcm": Settings(MixedResolution(0.5, 0.5), None, CrossAttnCache(0.5), CFGCutoff(0.5)),
    "sdxl": Settings(MixedResolution(0.75, 0.2), DeepCache(2, 2), CrossAttnCache(0.75), CFGCutoff(0.75)),
    "pixart_alpha": Settings(MixedResolution(0.75, 0.5), None, CrossAttnCache(0.75), CFGCutoff(0.75)),
    # As sd15, but for the switch and the deep cache: by `python dev.py bench quality --only switch after-mixed`.
    "embedded": Settings(
        MixedResolution(0.5, 0.5, switch="matched"), DeepCache(3, 2, 0.25), CrossAttnCache(0.75), CFGCutoff(0.75)
    ),
}
# The latent side that a family was trained at. The paper never begins below three quarters of it: with SD1.5 and LCM at
# 384 of 512 px, with SDXL at 768 of 1024.
TRAINED_SIDES: dict[Family, int] = {"sd15": 64, "sdxl": 128}
SD2_V_SIDE = 96  # SD2's models with v-prediction are those of 768 px
MIN_SHARE_OF_TRAINED_SIDE = 0.75
# Not in the paper: what is safe on a model that nobody has calibrated.
SAFE_RESOLUTION, SAFE_CUTOFF = MixedResolution(0.75, 0.2), CFGCutoff(0.75)
UNKNOWN = Settings(SAFE_RESOLUTION, None, None, SAFE_CUTOFF)
CHOICES = ("auto", *PRESETS, "off")

SD_CLASSES = (comfy.model_base.BaseModel, comfy.model_base.SD21UNCLIP, comfy.model_base.SD15_instructpix2pix)
DISTILLED_FAMILIES = ("sd15", "sdxl")  # those that LCM, Turbo and Lightning are made of
MAX_DISTILLED_STEPS = 10
MAX_DISTILLED_CFG = 1.5


@dataclass(frozen=True)
class Choice:
    """The settings a preset gave, why, in words for the log, and what the run's report has to say about it.

    `recognised` is what `auto` took the model for, in a word or two for the canvas; empty where nothing was guessed.
    """

    settings: Settings
    reason: str
    remarks: tuple[str, ...] = ()
    recognised: str = ""


def choose(preset: str, model: Any, *, sampler_name: str, cfg: float, steps: int, size: Size) -> Choice:
    """The settings of a named preset; `auto` looks at the MODEL's family, whether it is distilled, and the latent size.

    Raises ValueError, naming the remedy, for a preset that is neither built in nor saved.
    """
    if preset == "off":
        return Choice(Settings(), "off: only the patches on the model act")
    if preset in PRESETS:
        return Choice(PRESETS[preset], f"{preset}, as chosen")
    if preset != "auto":
        return Choice(saved_presets.load(preset), f"{preset}, as saved", _other_steps(preset, steps))
    return _without_refused(_recognise(model, sampler_name=sampler_name, cfg=cfg, steps=steps, size=size), model)


def _recognise(model: Any, *, sampler_name: str, cfg: float, steps: int, size: Size) -> Choice:
    """The settings for the MODEL's family."""
    family, name = family_of(model), type(model.model).__name__
    if family == "unknown":
        reason = (
            f"auto: {name} is of no known family, so beta {SAFE_RESOLUTION.low_res_scale:g}, "
            f"s {SAFE_RESOLUTION.low_res_until:g} and cut-off {SAFE_CUTOFF.start_percent:g} only"
        )
        return Choice(UNKNOWN, reason, (f"{reason}.",), "unknown family")
    settings, reason, recognised = PRESETS[family], f"auto: {name} is of the {family} family", str(family)
    if family in DISTILLED_FAMILIES and is_distilled(model, sampler_name, cfg, steps):
        settings, reason, recognised = distilled_settings(settings), f"{reason} and distilled", f"{family}, distilled"
    beta = smallest_beta(trained_side(model, family), size)
    if settings.mixed_resolution is None or settings.mixed_resolution.low_res_scale >= beta:
        return Choice(settings, reason, recognised=recognised)
    mixed = replace(settings.mixed_resolution, low_res_scale=beta)
    smaller = f"would begin below three quarters of the side that {family} models are trained at"
    asked = settings.mixed_resolution.low_res_scale
    raised = f"low_res_scale is {beta:g}, as {asked:g} {smaller}"
    note = f"auto: {raised if beta < 1 else f'no step runs at low resolution, as it {smaller}'}."
    return Choice(replace(settings, mixed_resolution=mixed), f"{reason}; beta {beta:g}", (note,), recognised)


def _other_steps(preset: str, steps: int) -> tuple[str, ...]:
    found = saved_presets.steps_of(preset)
    if found in (None, steps):
        return ()
    return (f"The preset {preset} was calibrated with {found} steps; with {steps}, speed and quality will differ.",)


def _without_refused(choice: Choice, model: Any) -> Choice:
    """A choice without the techniques that cannot act on this MODEL: nobody has asked for them by name."""
    idle = refused(model, choice.settings)
    if not idle:
        return choice
    left_out = f"left out, as they cannot act on it: {', '.join(TECHNIQUE_INFO[name].title for name in idle)}"
    settings = replace(choice.settings, **dict.fromkeys(idle))
    remarks = (*choice.remarks, f"auto: {left_out}.")
    return replace(choice, settings=settings, reason=f"{choice.reason}; {left_out}", remarks=remarks)


def trained_side(model: Any, family: Family) -> int:
    """The latent side that the MODEL was trained at; 0 if that is not known."""
    base = model.model
    if isinstance(base.model_config, SD20) and base.model_type == ModelType.V_PREDICTION:
        return SD2_V_SIDE
    return TRAINED_SIDES.get(family, 0)


def smallest_beta(trained: int, size: Size) -> float:
    """The least `low_res_scale`, to a twentieth, at which a latent of this size begins large enough for the model."""
    return min(1.0, round(20 * MIN_SHARE_OF_TRAINED_SIDE * trained / math.sqrt(math.prod(size))) / 20)


def choices() -> list[str]:
    """Every preset that can be chosen: the built-in ones, then the saved ones."""
    return [*CHOICES, *(name for name in saved_presets.names() if name not in CHOICES)]


def family_of(model: Any) -> Family:
    """The family of a loaded MODEL, from its class."""
    base = model.model
    diffusion_model = whole_module(base.diffusion_model)
    if getattr(type(base.model_config), "postdiff_preset", None) == "embedded":  # of an instance the host would warn
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
        or (cfg <= MAX_DISTILLED_CFG and steps <= MAX_DISTILLED_STEPS)
    )
