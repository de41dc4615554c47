"""Pieces of the node schemas that several nodes share."""

from __future__ import annotations

import inspect
from typing import Any

import nodes as comfy_nodes
from comfy_api.latest import io

from ..postdiff_core.schedule import SWITCHES, UPSCALE_METHODS, MixedResolution


def schema(**fields: Any) -> io.Schema:
    """An io.Schema from the fields that this host's version knows (newer ones are left out)."""
    known = inspect.signature(io.Schema).parameters
    # Events go to the node by its id: a MODEL that the host has cached under another one would send them there.
    fields["not_idempotent"] = io.Hidden.unique_id in fields.get("hidden", ())
    for each in fields["inputs"]:
        if isinstance(each, io.Float.Input) and each.min is not None:
            each.min = _Minimum(each.min)
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


class _Minimum(float):
    """The least value of an input. Not-a-number lies below it too: the host asks `value < least`, which is False there.

    Python asks a subclass of the other operand first, here whether it is greater than the value.
    """

    def __gt__(self, value: float) -> bool:
        return not value >= self


def unique_id(node: type[io.ComfyNode]) -> str | None:
    """The id of the node that is executing; None outside a prompt."""
    return getattr(node.hidden, "unique_id", None)


def ksampler_inputs() -> list[io.Input]:
    """KSampler's own inputs, names, order, defaults and tooltips: one node can be swapped for the other."""
    required = comfy_nodes.KSampler.INPUT_TYPES()["required"]
    return [_as_v3(name, *declared) for name, declared in required.items()]


def sampling_choices(tooltip: str) -> list[io.Input]:
    """KSampler's choices of a sampler and a scheduler."""
    choices = [each for each in ksampler_inputs() if each.id in ("sampler_name", "scheduler")]
    for each in choices:
        each.tooltip = tooltip
    return choices


def fraction_input(name: str, *, default: float, tooltip: str, step: float = 0.01) -> io.Input:
    """A fraction of the whole schedule, as ComfyUI's percents are given."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, round=0.001, tooltip=tooltip)


def patch_outputs() -> list[io.Output]:
    """The output of every patch node."""
    return [io.Model.Output(tooltip="A patched clone; the model given is left as it is.")]


def mixed_resolution_inputs() -> list[io.Input]:
    """beta, s, the upscaling of section 2.2, and the noise after the switch."""
    return [
        io.Float.Input(
            "low_res_scale",
            default=MixedResolution.low_res_scale,
            min=0.25,
            max=1.0,
            step=0.05,
            round=0.001,
            tooltip="The size of the early steps relative to the full size. SD1.5 at 768 pixels 0.5, at 512 pixels "
            "0.75; SDXL, PixArt and others 0.75. Lower is faster but changes the composition more; 1 is off. The "
            "paper's beta.",
        ),
        fraction_input(
            "low_res_until",
            default=MixedResolution.low_res_until,
            step=0.05,
            tooltip="The fraction of the whole schedule that is done at low resolution. SD1.5 and PixArt 0.5; SDXL "
            "and others 0.2. Higher is faster and leaves fewer steps for fine detail; 0 is off. The paper's s.",
        ),
        io.Combo.Input(
            "upscale_method",
            options=list(UPSCALE_METHODS),
            default=MixedResolution.upscale_method,
            tooltip="How the predicted picture is enlarged where the resolution changes. The paper uses bilinear.",
        ),
        io.Combo.Input(
            "switch",
            options=list(SWITCHES),
            default=MixedResolution.switch,
            optional=True,  # workflows saved before it existed do not have it
            tooltip="How much noise the enlarged picture gets. paper: as much as the schedule has there. "
            "matched: more, so that the full-size steps can draw the detail that the low resolution lacks, at no cost.",
        ),
    ]


_KINDS = {
    "MODEL": io.Model,
    "CONDITIONING": io.Conditioning,
    "LATENT": io.Latent,
    "COMBO": io.Combo,
    "INT": io.Int,
    "FLOAT": io.Float,
    "BOOLEAN": io.Boolean,
    "STRING": io.String,
}


def _as_v3(name: str, kind: Any, options: dict[str, Any] | None = None) -> io.Input:
    """The input as this host's KSampler declares it, but for options that the newer way of declaring does not know."""
    options = dict(options or {})
    if not isinstance(kind, str):
        kind, options = "COMBO", {**options, "options": list(kind)}
    if kind == "COMBO" and options.get("options"):
        options.setdefault("default", options["options"][0])  # as on the canvas
    new: Any = _KINDS.get(kind, io.Custom(kind)).Input
    known = inspect.signature(new).parameters.keys() - {"id"}
    return new(name, **{option: value for option, value in options.items() if option in known})
