from __future__ import annotations

import dataclasses
import json
from typing import Any

import comfy.model_management
from comfy_api.latest import io, ui
from PIL import Image

from ..postdiff_core import presets, saved_presets
from ..postdiff_core.calibrate import frontier_picture, outcome, request, table
from ..postdiff_core.calibrate.calibration import Result
from ..postdiff_core.calibrate.progress import Progress
from ..postdiff_core.calibrate.prompts import PROMPTS
from ..postdiff_core.calibrate.runs import Sampling
from .events import show_text
from .pictures import as_image
from .schema import sampling_choices, schema, unique_id


class PostDiffCalibrate(io.ComfyNode):
    """Searches the settings that suit a model best (section 2.4, appendix D)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PostDiffCalibrate",
            display_name="PostDiff Calibrate",
            category="PostDiff/calibrate",
            description="Finds good PostDiff settings for your model: draws your prompts with many settings, keeps the "
            "better half and goes on, and saves the winner as a preset for KSampler (PostDiff).",
            search_aliases=["postdiff", "tune", "benchmark", "find best settings"],
            inputs=[*_models(), *_search(), *_sampling(), *_conditions(), *_scoring()],
            outputs=_outputs(),
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, preset_name: str | None = None, resume: bool | None = None, **_: Any) -> str | float:
        """Queued again, an unfinished search goes on, though no input has changed."""
        if not resume or not preset_name or saved_presets.is_complete(saved_presets.file_name(preset_name)):
            return "as asked"
        return float("nan")

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        preset_name: str,
        clip_vision: Any = None,
        score_clip: Any = None,
        **inputs: Any,
    ) -> io.NodeOutput:
        name = saved_presets.file_name(preset_name)
        if name in presets.CHOICES:
            raise ValueError(f"preset_name is {preset_name!r}, which is a built-in preset: choose another name.")
        sampling = Sampling(**{field.name: inputs.pop(field.name) for field in dataclasses.fields(Sampling)})
        asked = request.Request(sampling=sampling, **inputs)
        node = unique_id(cls)
        progress = Progress(lambda line: show_text(node, line))
        calibration = request.prepare(asked, model, clip, vae, clip_vision, score_clip, progress)
        try:
            result = calibration.run()
        except comfy.model_management.InterruptProcessingException:
            outcome.keep_best_so_far(name, calibration)
            raise
        outcome.save(name, calibration, result)
        drawn = frontier_picture.draw(result, outcome.title(calibration), request.examples(calibration, result))
        done = "" if result.complete else " The time was up before the search was: queue again to go on."
        progress.finish(f"Chosen: {result.chosen.candidate}. Saved as the preset {name}.{done}", drawn)
        return _output(cls, name, result, drawn)


def _models() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model to calibrate, as you sample with it (LoRAs included)."),
        io.Clip.Input("clip", tooltip="Its text encoder."),
        io.Vae.Input("vae", tooltip="Its VAE."),
        io.String.Input(
            "prompts",
            default=PROMPTS,
            multiline=True,
            tooltip="One prompt per line, of the kind that you use. Twenty are a good number.",
        ),
        io.String.Input("negative", default="", multiline=True, tooltip="The negative prompt for all of them."),
    ]


def _search() -> list[io.Input]:
    ignored = "Used with own lists only."
    return [
        io.Combo.Input(
            "search",
            options=[*request.SEARCHES, request.OWN_LISTS],
            default="quick",
            tooltip="Which settings to combine: a small or a large grid, or the lists below.",
        ),
        io.String.Input(
            "steps", default="20", tooltip="Numbers of steps to try (T); the largest is the stock run's. Always used."
        ),
        io.String.Input(
            "low_res_scale", default="0.5, 0.75", tooltip=f"Sizes of the early steps (beta); 1 is off. {ignored}"
        ),
        io.String.Input(
            "low_res_until", default="0, 0.2, 0.5", tooltip=f"Fractions at low resolution (s); 0 is off. {ignored}"
        ),
        io.String.Input("interval", default="1, 2", tooltip=f"Intervals of the deep cache (k); 1 is off. {ignored}"),
        io.String.Input(
            "deep_cache_start",
            default="0, 0.25",
            tooltip="Fractions of the schedule at which the deep cache begins; 0 as in the paper. Later keeps more of "
            f"the picture and saves less. {ignored}",
        ),
        io.String.Input(
            "start_percent",
            default="0.5, 0.75, 1",
            tooltip=f"Where the cross-attention cache and the cut-off begin (m); 1 is off. {ignored}",
        ),
        io.Float.Input(
            "min_speedup",
            default=1.5,
            min=1.0,
            max=10.0,
            step=0.1,
            round=0.01,
            tooltip="How many times less work than the stock run the settings must do. Of the last two that do, the "
            "cheaper is chosen if it is within one standard error of the better.",
        ),
    ]


def _sampling() -> list[io.Input]:
    return [
        *sampling_choices("As you use it."),
        io.Float.Input(
            "cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="The guidance scale, as you use it."
        ),
        io.Int.Input("width", default=512, min=64, max=8192, step=8, tooltip="Pixels, as you use it (SDXL: 1024)."),
        io.Int.Input("height", default=512, min=64, max=8192, step=8, tooltip="Pixels, as you use it (SDXL: 1024)."),
    ]


def _conditions() -> list[io.Input]:
    return [
        io.Int.Input("first_seed", default=1, min=0, max=2**63, tooltip="The first seed that prompts are drawn with."),
        io.Int.Input(
            "seeds",
            default=2,
            min=1,
            max=100,
            tooltip="Seeds per prompt: prompts times seeds is the number of pictures.",
        ),
        io.Float.Input(
            "minutes",
            default=15.0,
            min=0.0,
            max=10_000.0,
            step=1.0,
            round=0.1,
            tooltip="When the time is up, the best so far is given. Queue again to go on from there.",
        ),
        io.String.Input(
            "preset_name",
            default="my model",
            tooltip="The name under which KSampler (PostDiff) offers the result. A preset of that name is replaced.",
        ),
        io.Boolean.Input(
            "resume",
            default=True,
            tooltip="Use what was drawn before with this model and this sampling. Off: forget it and draw all anew.",
        ),
    ]


def _scoring() -> list[io.Input]:
    return [
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="For the CLIP score, which ranks all settings. Without it, pictures are compared with the same run "
            "computed in full, which cannot rank low_res_scale and low_res_until.",
        ),
        io.Clip.Input(
            "score_clip",
            optional=True,
            tooltip="The text encoder of the same CLIP as clip_vision, where the model's own is another.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Combo.Output(display_name="preset", tooltip="The saved preset's name, for KSampler (PostDiff)."),
        io.Int.Output(display_name="steps", tooltip="For the sampler. The paper's T."),
        io.Float.Output(
            display_name="low_res_scale", tooltip="For KSampler (Mixed Resolution); 1 is off. The paper's beta."
        ),
        io.Float.Output(
            display_name="low_res_until", tooltip="For KSampler (Mixed Resolution); 0 is off. The paper's s."
        ),
        io.Int.Output(display_name="interval", tooltip="For Deep Cache; 1 is off. The paper's k."),
        io.Float.Output(
            display_name="deep_cache_start",
            tooltip="For Deep Cache's start_percent: where its reuse begins; 0 without one.",
        ),
        io.Float.Output(
            display_name="start_percent", tooltip="For Cross-Attention Cache and CFG Cut-off; 1 is off. The paper's m."
        ),
        io.Image.Output(display_name="picture", tooltip="Score against work, and examples."),
        io.String.Output(display_name="table", tooltip="Every setting that was tried, as a Markdown table."),
        io.String.Output(display_name="results", tooltip="Everything that was found, as a JSON document."),
    ]


def _output(cls: type[io.ComfyNode], name: str, result: Result, drawn: Image.Image) -> io.NodeOutput:
    picture = as_image(drawn)
    return io.NodeOutput(
        name,
        *table.parameters(result.chosen).values(),
        picture,
        table.markdown(result),
        json.dumps(table.document(result), indent=1),
        ui=ui.PreviewImage(picture, cls=cls),
    )
