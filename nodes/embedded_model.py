from __future__ import annotations

from comfy_api.latest import io

from .schema import schema


class PostDiffEmbeddedModel(io.ComfyNode):
    """A small text-to-image model that ships with the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PostDiffEmbeddedModel",
            display_name="Embedded Model (emoji)",
            category="PostDiff/loaders",
            description="A small text-to-image model that ships with the pack: try things without a download. "
            "Prompts are a style, noto or fluent, and a name, on a colour or with another name if you like: noto red "
            "apple, noto red apple on a blue background, fluent crab and rocket. 256 x 256 pixels.",
            search_aliases=["postdiff", "checkpoint", "tiny", "test model"],
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The denoiser."),
                io.Clip.Output(tooltip="The text encoder: it knows the styles and names, no other words."),
                io.Vae.Output(tooltip="The autoencoder between latents and pictures."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..embedded_model.loader import load_embedded_model

        return io.NodeOutput(*load_embedded_model())
