"""Loaders for stand-ins whose text encoders have fewer layers than ComfyUI's own loaders expect."""

import importlib.util
from pathlib import Path

import comfy.sd
import folder_paths
from comfy_api.latest import ComfyExtension, io

SUPPORT = Path(__file__).resolve().parents[3] / "support"


def light_text_encoders():
    spec = importlib.util.spec_from_file_location("postdiff_text_encoders", SUPPORT / "text_encoders.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LIGHT


class CheckpointLoader(io.ComfyNode):
    """CheckpointLoaderSimple, told how many layers the text encoders have."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PostDiffTestCheckpointLoader",
            category="PostDiff/tests",
            inputs=[io.Combo.Input("ckpt_name", options=folder_paths.get_filename_list("checkpoints"))],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, ckpt_name):
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        light = light_text_encoders()
        return io.NodeOutput(*comfy.sd.load_checkpoint_guess_config(path, te_model_options=light)[:3])


class TextEncoderLoader(io.ComfyNode):
    """CLIPLoader, told how many layers the text encoder has."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PostDiffTestTextEncoderLoader",
            category="PostDiff/tests",
            inputs=[
                io.Combo.Input("clip_name", options=folder_paths.get_filename_list("text_encoders")),
                io.String.Input("type"),
                io.String.Input("device"),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip_name, type, device):
        path = folder_paths.get_full_path_or_raise("text_encoders", clip_name)
        kind = comfy.sd.CLIPType[type.upper()]
        return io.NodeOutput(comfy.sd.load_clip([path], clip_type=kind, model_options=light_text_encoders()))


class StandIns(ComfyExtension):
    async def get_node_list(self):
        return [CheckpointLoader, TextEncoderLoader]


async def comfy_entrypoint():
    return StandIns()
