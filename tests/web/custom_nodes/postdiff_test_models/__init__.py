"""Nodes for the browser tests: a tiny random model of tests/support, as slow as a test needs it."""

import importlib.util
import time
from pathlib import Path

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io

SUPPORT = Path(__file__).resolve().parents[3] / "support"
FAMILIES = ["sd15", "sdxl", "pixart_alpha"]


def tiny_models():
    spec = importlib.util.spec_from_file_location("postdiff_tiny_models", SUPPORT / "tiny_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def slowed(model, seconds, fail_at, smallest):
    """The model, waiting before each evaluation.

    All evaluations from the one numbered `fail_at` on raise (none if negative), and those of a latent narrower than
    `smallest`.
    """
    evaluations = 0

    def predict_noise(executor, x, *args, **kwargs):
        nonlocal evaluations
        evaluations += 1
        if evaluations > fail_at >= 0 or x.shape[-1] < smallest:
            raise RuntimeError("This evaluation fails, as the test asked.")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            throw_exception_if_processing_interrupted()
            time.sleep(0.02)
        return executor(x, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "postdiff_test", predict_noise)
    return model


class TinyModel(io.ComfyNode):
    """A random model, a prompt for it and an empty latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="PostDiffTestModel",
            display_name="Tiny random model",
            category="PostDiff/tests",
            inputs=[
                io.Combo.Input("family", options=FAMILIES),
                io.Float.Input("seconds_per_step", default=0.0, min=0.0, max=10.0, step=0.01),
                io.Int.Input("fail_at", default=-1, min=-1, max=100),
                io.Int.Input("smallest", default=0, min=0, max=100),
                io.Int.Input("fresh", default=0, min=0, max=2**31, tooltip="Another number makes the graph run again."),
            ],
            outputs=[io.Model.Output(), io.Conditioning.Output(), io.Latent.Output()],
        )

    @classmethod
    def execute(cls, family, seconds_per_step, fail_at, smallest, fresh):
        tiny = tiny_models()
        model = getattr(tiny, family)()
        slow = slowed(model, seconds_per_step, fail_at, smallest)
        return io.NodeOutput(slow, tiny.conditioning(model), tiny.latent(model))


class TestModels(ComfyExtension):
    async def get_node_list(self):
        return [TinyModel]


async def comfy_entrypoint():
    return TestModels()
