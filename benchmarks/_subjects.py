"""Models whose pictures can be judged."""

from __future__ import annotations

import nodes
import numpy as np
import torch

import tiny_models  # tests/support

FIRST_SEED = 1000


class EmbeddedModel:
    """The pack's own model; a picture is compared with the training picture of its prompt."""

    name, title = "embedded", "Embedded model, 256 px"
    error_is = "root mean square difference from the prompt's training picture, position and size removed"

    def __init__(self, pictures: int) -> None:
        from postdiff.embedded_model.loader import RECOMMENDED, load_embedded_model
        from postdiff.embedded_model.training.judge import Judge

        judge = Judge.shipped()
        model, clip, self._vae = load_embedded_model()
        chosen = range(0, len(judge.pairs), max(1, len(judge.pairs) // pictures))[:pictures]
        self._crops = [judge.crops[i] for i in chosen]
        encode = nodes.CLIPTextEncode().encode
        negative = encode(clip, "")[0]
        (latent,) = nodes.EmptyLatentImage().generate(RECOMMENDED["width"], RECOMMENDED["height"], 1)
        self.inputs = [
            {
                "model": model,
                "seed": FIRST_SEED + i,
                **{name: RECOMMENDED[name] for name in ("steps", "cfg", "sampler_name", "scheduler")},
                "positive": encode(clip, " ".join(judge.pairs[i]))[0],
                "negative": negative,
                "latent_image": latent,
            }
            for i in chosen
        ]

    def error(self, number: int, latent: torch.Tensor) -> float:
        from postdiff.embedded_model.training.judge import crop_to_foreground

        picture = nodes.VAEDecode().decode(self._vae, {"samples": latent})[0][0].cpu().numpy()
        return float(np.sqrt(np.square(crop_to_foreground(picture) - self._crops[number]).mean()))


class RandomModel:
    """A tiny random model, to try the benchmark: its latents show nothing that could be right or wrong."""

    name, title = "random", "Tiny random model"
    error_is = "the latent's standard deviation (meaningless)"

    def __init__(self) -> None:
        self.inputs = [tiny_models.sampler_inputs(tiny_models.small_unet(), seed=7, steps=6)]

    def error(self, _number: int, latent: torch.Tensor) -> float:
        return float(latent.std())
