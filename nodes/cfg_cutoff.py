from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..postdiff_core import patch
from ..postdiff_core.schedule import CFGCutoff as Cutoff
from .events import observer_for
from .schema import fraction_input, patch_outputs, schema, unique_id


class CFGCutoff(io.ComfyNode):
    """The guidance cut-off of section 2.5."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CFGCutoff",
            display_name="CFG Cut-off",
            category="PostDiff/patches",
            description="Late in the run, only the positive prompt is evaluated: each of these steps costs half.",
            search_aliases=["postdiff", "guidance", "speed up", "cfg"],
            inputs=[
                io.Model.Input("model", tooltip="Any model sampled with a positive and a negative prompt."),
                fraction_input(
                    "start_percent",
                    default=Cutoff.start_percent,
                    tooltip="From this fraction of the whole schedule on, guidance is dropped. Lower is faster and "
                    "follows the prompt less; 1 is off. The paper's m.",
                ),
            ],
            outputs=patch_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, start_percent: float) -> io.NodeOutput:
        return io.NodeOutput(patch.add(model, Cutoff(start_percent), observer_for(unique_id(cls))))
