from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..postdiff_core import patch, report, report_picture
from .pictures import as_image
from .schema import schema

# Shown, not raised: the host would stop the whole graph, and the picture that was drawn would not be saved.
NOTHING = (
    "Nothing to report: no PostDiff node has sampled with this model, or the sampler had no steps to take (denoise 0, "
    "start_at_step after the last). Connect the MODEL output of the PostDiff sampler, or the patched model, and the "
    "sampler's LATENT."
)


class PostDiffReport(io.ComfyNode):
    """The report of the last run on a MODEL, as text and as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PostDiffReport",
            display_name="PostDiff Report",
            category="PostDiff/report",
            description="What the last run on this model did and what it saved: plan, seconds and work of each step.",
            search_aliases=["postdiff", "timing", "benchmark", "speed"],
            inputs=[
                io.Model.Input("model", tooltip="The model that ran: a sampler's MODEL output, or the patched model."),
                io.Latent.Input(
                    "latent", tooltip="The sampler's latent. It passes through: the report comes after it."
                ),
            ],
            outputs=[
                io.Latent.Output(tooltip="The latent, unchanged."),
                io.String.Output(
                    display_name="report", tooltip="The report as a JSON document; null if there is nothing to report."
                ),
                io.Image.Output(display_name="timeline", tooltip="One bar a step, as tall as the seconds it took."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: dict) -> io.NodeOutput:
        last = patch.carried_by(model).last_report
        lines = [NOTHING] if last is None else [*report.summary(last), *last["notes"]]
        drawn = report_picture.draw_text(NOTHING) if last is None else report_picture.draw(last)
        picture = as_image(drawn)
        document = json.dumps(last, indent=1)
        on_canvas = {**ui.PreviewImage(picture).as_dict(), "text": ("\n".join(lines), document)}
        return io.NodeOutput(latent, document, picture, ui=on_canvas)
