"""Pictures by the real ComfyUI in this process: its loaders, KSampler and VAEDecode, and this pack's techniques."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluation.settings import Model, Setting


class DrawingError(RuntimeError):
    """A picture that came out unusable."""


@dataclass(frozen=True)
class Drawn:
    """`picture` is uint8 (1, height, width, 3). Work is None where the pack cannot count it (`notes` say why)."""

    picture: torch.Tensor
    seconds_sample: float
    seconds_decode: float
    macs: int | None
    macs_linear: int | None
    notes: tuple[str, ...]


class LoadedModel:
    """A model of the settings file, loaded, with each setting's techniques patched onto a clone.

    Call `pack.prepare_comfyui` and `pack.load_pack` first. Raises ValueError where a technique cannot act on the model.
    All is done in inference mode, in which ComfyUI runs its nodes.
    """

    @torch.inference_mode()
    def __init__(self, model: Model, folder: Path) -> None:
        self._model = model
        self._diffusion_model, self._clip, self._vae = _load(model, folder)
        self._patched = {setting.name: _Patched(self._diffusion_model, setting) for setting in model.settings}
        self._negative = self.encode(model.negative)

    @torch.inference_mode()
    def encode(self, prompt: str) -> Any:
        """The prompt as CONDITIONING, for a picture of the model's full size also while it is drawn at a lower one."""
        import node_helpers
        import nodes

        (encoded,) = nodes.CLIPTextEncode().encode(self._clip, prompt)
        size = {"width": self._model.width, "height": self._model.height}
        return node_helpers.conditioning_set_values(encoded, size)

    @torch.inference_mode()
    def draw(self, setting: Setting, positive: Any, seed: int) -> Drawn:
        """One picture, as the canvas draws it with this seed. Raises DrawingError if it is not finite."""
        import nodes

        (latent,) = nodes.EmptyLatentImage().generate(self._model.width, self._model.height, 1)
        patched = self._patched[setting.name]
        inputs = {
            "model": patched.model,
            "seed": seed,
            "steps": setting.steps,
            "cfg": self._model.cfg,
            "sampler_name": self._model.sampler_name,
            "scheduler": self._model.scheduler,
            "positive": positive,
            "negative": self._negative,
            "latent_image": latent,
        }
        started = time.perf_counter()
        (samples,) = nodes.KSampler().sample(**inputs)
        sampled = time.perf_counter()  # the latent lies on the CPU: the GPU has finished
        (picture,) = nodes.VAEDecode().decode(self._vae, samples)
        picture = picture.cpu()
        decoded = time.perf_counter()
        if not torch.isfinite(picture).all():
            raise DrawingError("The picture is not finite (NaN or infinity).")
        tokens = positive[0][0].shape[1]
        macs, macs_linear = patched.work(samples["samples"].shape[-2:], tokens, self._model.cfg)
        return Drawn(_eight_bit(picture), sampled - started, decoded - sampled, macs, macs_linear, tuple(patched.notes))


class _Patched:
    """A MODEL with a setting's techniques; told what each run does. A stock setting leaves the MODEL as it is."""

    def __init__(self, model: Any, setting: Setting) -> None:
        from postdiff.postdiff_core import patch, schedule

        techniques = {name: schedule.TECHNIQUES[name](**values) for name, values in setting.techniques.items()}
        self._settings = schedule.Settings(**techniques)
        self.model = patch.fill(model, self._settings, self) if techniques else model
        self.notes: Sequence[str] = ()
        self._plan = schedule.stock_plan(setting.steps)
        self._low_size: tuple[int, int] | None = None

    def on_plan(self, plan: Any, notes: Sequence[str]) -> None:
        self._plan = plan

    def on_step(self, index: int) -> None:
        pass

    def on_report(self, report: dict[str, Any]) -> None:
        self.notes = report["notes"]
        low_size = report["low_size"]
        self._low_size = (low_size[0], low_size[1]) if low_size else None

    def work(self, size: Sequence[int], tokens: int, cfg: float) -> tuple[int | None, int | None]:
        """Multiply-accumulates of the last run: all, and without attention products as the paper counts."""
        from postdiff.postdiff_core import cost

        deep_cache = self._settings.deep_cache
        try:
            work = cost.plan_work(
                self.model.model,
                self._plan,
                (size[0], size[1]),
                self._low_size,
                tokens=tokens,
                rows=cost.planned_rows(self._plan, 1 if math.isclose(cfg, 1.0) else 2),
                depth=deep_cache.depth if deep_cache else None,
            ).total
        except cost.UncountableModel as error:
            self.notes = list(dict.fromkeys([*self.notes, str(error)]))  # no report begins a stock setting's anew
            return None, None
        return work.total, work.linear


def _eight_bit(picture: torch.Tensor) -> torch.Tensor:
    """As ComfyUI's SaveImage rounds: down."""
    return (255.0 * picture).clamp(0, 255).to(torch.uint8)


def _load(model: Model, folder: Path) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE, by what ComfyUI's own loader nodes call."""
    import comfy.sd
    import comfy.utils

    if model.checkpoint:
        diffusion_model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(folder / model.checkpoint))
    elif model.diffusion_model:
        assert model.vae is not None
        diffusion_model = comfy.sd.load_diffusion_model(str(folder / model.diffusion_model))
        kind = comfy.sd.CLIPType[model.clip_type.upper()]
        clip = comfy.sd.load_clip([str(folder / file) for file in model.text_encoders], clip_type=kind)
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(folder / model.vae)))
    else:
        from postdiff.embedded_model.loader import load_embedded_model

        diffusion_model, clip, vae = load_embedded_model()
    for file in model.loras:
        lora = comfy.utils.load_torch_file(str(folder / file), safe_load=True)
        diffusion_model, clip = comfy.sd.load_lora_for_models(diffusion_model, clip, lora, 1.0, 1.0)
    if model.lcm_sampling:
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

        (diffusion_model,) = ModelSamplingDiscrete().patch(diffusion_model, "lcm", zsnr=False)
    return diffusion_model, clip, vae
