"""Models whose pictures can be judged."""

from __future__ import annotations

import nodes
import numpy as np
import torch

import tiny_models  # tests/support

FIRST_SEED = 1000


class EmbeddedModel:
    """The pack's own model; a picture is compared with the training picture of its prompt.

    `dtype` is what the denoiser computes in, by default what ComfyUI chooses.
    """

    name, title = "embedded", "Embedded model, 256 px"
    error_is = "root mean square difference from the prompt's training picture, either way round; place, size removed"

    def __init__(self, pictures: int, dtype: torch.dtype | None = None) -> None:
        from postdiff.embedded_model.loader import RECOMMENDED, WEIGHTS, load_embedded_model, sha256
        from postdiff.embedded_model.training.judge import Judge

        judge = Judge.shipped()
        model, clip, self._vae = load_embedded_model(dtype=dtype)
        chosen = np.random.default_rng(FIRST_SEED).permutation(len(judge.pairs))[:pictures].tolist()
        self.weights = sha256(WEIGHTS)
        self.prompts = [" ".join(judge.pairs[i]) for i in chosen]
        self._crops = [judge.crops[i] for i in chosen]
        encode = nodes.CLIPTextEncode().encode
        negative = encode(clip, "")[0]
        (latent,) = nodes.EmptyLatentImage().generate(RECOMMENDED["width"], RECOMMENDED["height"], 1)
        self.inputs = [
            {
                "model": model,
                "seed": FIRST_SEED + i,
                **{name: RECOMMENDED[name] for name in ("steps", "cfg", "sampler_name", "scheduler")},
                "positive": encode(clip, prompt)[0],
                "negative": negative,
                "latent_image": latent,
            }
            for i, prompt in zip(chosen, self.prompts, strict=True)
        ]

    def error(self, number: int, latent: torch.Tensor) -> float:
        from postdiff.embedded_model.training.judge import picture_error

        picture = nodes.VAEDecode().decode(self._vae, {"samples": latent})[0][0].cpu().numpy()
        return picture_error(picture, self._crops[number])


class RandomModel:
    """A tiny random model, to try the benchmark: its latents show nothing that could be right or wrong."""

    name, title = "random", "Tiny random model"
    error_is = "the latent's standard deviation (meaningless)"
    weights, prompts = None, ()

    def __init__(self, dtype: torch.dtype) -> None:
        self.inputs = [tiny_models.sampler_inputs(tiny_models.small_unet(weights=dtype), seed=7, steps=6)]

    def error(self, _number: int, latent: torch.Tensor) -> float:
        return float(latent.std())
