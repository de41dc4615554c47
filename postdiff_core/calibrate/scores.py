"""How good a run's picture is: its CLIP score, or its likeness to the same run with everything computed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .fingerprint import fingerprint
from .grid import Candidate
from .runs import PromptSeed, Runs

MIN_MSE = 1e-10  # pictures closer than this count as equal: 100 dB


class Score(Protocol):
    """Judges runs; more is better."""

    name: str  # of the value that ranks runs, in words
    key: str  # what the values are kept under
    ranks_resolutions: bool  # whether runs that change resolution differently can be compared

    def values(self, candidate: Candidate, picture: PromptSeed) -> dict[str, float]:
        """What is found for a run, `name` among it."""
        ...

    def doubt(self, drawn: Sequence[tuple[Candidate, PromptSeed]]) -> str | None:
        """Why the scores may mean nothing, judged by these runs; None if they do mean something."""
        ...


class UncachedSimilarity:
    """Likeness to the uncached run: same prompt, seed and change of resolution, `steps` steps, nothing reused.

    It sees what caches, the cut-off and fewer steps change. It says nothing about beta and s, which compose another
    picture: to another seed's picture the distance is as large.
    """

    name = "PSNR"
    ranks_resolutions = False

    def __init__(self, runs: Runs, steps: int) -> None:
        if importlib.util.find_spec("kornia") is None:  # ComfyUI lists it among what it can do without
            raise ValueError(
                "Without clip_vision pictures are compared with kornia, which ComfyUI's requirements.txt lists and "
                "this Python lacks: install it (pip install kornia), or connect clip_vision."
            )
        self.runs, self.steps = runs, steps
        self.key = f"likeness to {steps} steps, VAE {fingerprint(runs.vae.patcher)}"
        self._decoded: tuple[Any, torch.Tensor] | None = None

    def values(self, candidate: Candidate, picture: PromptSeed) -> dict[str, float]:
        import kornia.metrics

        uncached = candidate.uncached(self.steps)
        latent, reference_latent = self.runs.latent(candidate, picture), self.runs.latent(uncached, picture)
        image, reference = self.runs.image(candidate, picture), self._reference(uncached, picture)
        mse = (image - reference).square().mean().clamp(min=MIN_MSE)
        return {
            "PSNR": -10 * float(mse.log10()),
            "SSIM": float(kornia.metrics.ssim(_batch(image), _batch(reference), window_size=11).mean()),
            "latent error": float((latent - reference_latent).norm() / reference_latent.norm()),
        }

    def doubt(self, drawn: Sequence[tuple[Candidate, PromptSeed]]) -> str | None:
        return None

    def _reference(self, uncached: Candidate, picture: PromptSeed) -> torch.Tensor:
        if self._decoded is None or self._decoded[0] != (uncached, picture):
            self._decoded = (uncached, picture), self.runs.image(uncached, picture)
        return self._decoded[1]


class ClipScore:
    """100 times the cosine between the CLIP embeddings of a picture and of its prompt (the paper's Clip Score).

    Raises ValueError if the CLIP_VISION and the CLIP do not belong to one family.
    """

    name = "CLIP score"
    ranks_resolutions = True

    def __init__(self, runs: Runs, clip_vision: Any, text_encoder: Any) -> None:
        self.runs, self._vision, self._text = runs, clip_vision, text_encoder
        keys = [fingerprint(patcher) for patcher in (clip_vision.patcher, text_encoder.patcher, runs.vae.patcher)]
        self.key = f"CLIP score, image and text encoder and VAE {' '.join(keys)}"
        self._prompts: dict[str, torch.Tensor] = {}
        self._require_one_family()

    def values(self, candidate: Candidate, picture: PromptSeed) -> dict[str, float]:
        return {"CLIP score": self._score(self._embedding(candidate, picture), picture.prompt)}

    def doubt(self, drawn: Sequence[tuple[Candidate, PromptSeed]]) -> str | None:
        """That pictures fit other prompts as well as their own; None if they do not.

        It is how two encoders of equal width but different training are found out.
        """
        prompts = list(dict.fromkeys(picture.prompt for _, picture in drawn))
        if len(prompts) < 2:
            return None
        margins = []
        for candidate, picture in drawn:
            embedding = self._embedding(candidate, picture)
            others = [self._score(embedding, prompt) for prompt in prompts if prompt != picture.prompt]
            margins.append(self._score(embedding, picture.prompt) - sum(others) / len(others))
        mean = sum(margins) / len(margins)
        if mean > 0 and sum(margin > 0 for margin in margins) > 0.75 * len(margins):
            return None
        return (
            f"The pictures fit their own prompts no better than the other ones ({mean:+.1f} on average): clip_vision "
            "and the text encoder may not belong to one family, or the model does not follow these prompts. The CLIP "
            "scores then mean nothing."
        )

    def _embedding(self, candidate: Candidate, picture: PromptSeed) -> torch.Tensor:
        return self._vision.encode_image(self.runs.image(candidate, picture)[None])["image_embeds"].float().cpu()

    def _score(self, embedding: torch.Tensor, prompt: str) -> float:
        return 100 * float(torch.cosine_similarity(embedding, self._text_embedding(prompt)).item())

    def _text_embedding(self, prompt: str) -> torch.Tensor:
        if prompt not in self._prompts:
            self._prompts[prompt] = self._encode(prompt)
        return self._prompts[prompt]

    def _encode(self, prompt: str) -> torch.Tensor:
        model, tokens = self._text.cond_stage_model, self._text.tokenize(prompt)
        self._text.load_model(tokens)
        model.reset_clip_options()
        # SD1's encoders give the pooled prompt as it is before the projection that prompts and pictures share.
        model.set_clip_options({"projected_pooled": True, "execution_device": self._text.patcher.load_device})
        try:
            pooled = model.encode_token_weights(tokens)[1]
        finally:
            model.reset_clip_options()
        if pooled is None:
            raise ValueError(f"The CLIP score needs a CLIP text encoder; {type(model).__name__} is none. {_REMEDY}")
        if not pooled.any() or not pooled.isfinite().all():
            raise ValueError(
                f"The text encoder {type(model).__name__} has no text projection, which the CLIP score needs "
                f"(checkpoints of SD1.5 come without). {_REMEDY}"
            )
        return pooled.float().cpu()

    def _require_one_family(self) -> None:
        projection = getattr(self._vision.model, "visual_projection", None)
        if not isinstance(projection, torch.nn.Linear):
            raise ValueError(
                f"clip_vision ({type(self._vision.model).__name__}) has no projection shared with a text encoder, as "
                f"SigLIP and DINO do not: it gives no CLIP score. {_REMEDY}"
            )
        width = self._encode("").shape[-1]
        if projection.out_features != width:
            raise ValueError(
                f"clip_vision gives {projection.out_features} numbers a picture, the text encoder "
                f"{type(self._text.cond_stage_model).__name__} {width} a prompt: they are not of one CLIP family. "
                f"{_REMEDY}"
            )


_REMEDY = (
    "Load the text encoder of the same CLIP as clip_vision with CLIPLoader and connect it to score_clip (ViT-L/14 goes "
    "with clip_l, 768 numbers; ViT-H/14 with SD2's, 1024; ViT-bigG/14 with clip_g, 1280), or disconnect clip_vision."
)


def _batch(image: torch.Tensor) -> torch.Tensor:
    return image.movedim(-1, 0)[None]
