"""The pictures of a calibration: every candidate's run on a prompt and a seed, drawn once."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sample
import torch

from .. import patch
from .fingerprint import fingerprint
from .grid import Candidate
from .store import Description, Store

FORMAT = 1  # raised when a run of the same description gives another picture


class PromptSeed(NamedTuple):
    """What is drawn: one prompt with one seed."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Sampling:
    """What every run of a calibration shares. Sides are pixels."""

    sampler_name: str
    scheduler: str
    cfg: float
    width: int
    height: int
    negative: str = ""


def about(model: Any, clip: Any, sampling: Sampling) -> Description:
    """What all runs of a calibration have in common, as plain data: what they are kept under."""
    return {
        "format": FORMAT,
        "model_class": type(model.model).__name__,
        "model": fingerprint(model),
        "text_encoder": fingerprint(clip.patcher),
        "clip_layer": clip.layer_idx,
        **dataclasses.asdict(sampling),
    }


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what every run logs: its two lines, and its notes, which `Runs` gathers."""
    log = logging.getLogger("postdiff")
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(_record: logging.LogRecord) -> bool:
    return False


class Runs:
    """Draws pictures with a MODEL, CLIP and VAE, and keeps their latents in a Store.

    `on_step(fraction)` is called while a run is being made. Raises ValueError for a model of videos.
    """

    def __init__(self, model: Any, clip: Any, vae: Any, sampling: Sampling, store: Store) -> None:
        if model.get_model_object("latent_format").latent_dimensions != 2:
            name = type(model.model).__name__
            raise ValueError(
                f"{name} draws latents with a time axis (models of video, Qwen-Image), which a calibration does not "
                "draw. Set CFG Cut-off by hand."
            )
        self.model, self.vae, self.sampling, self.store = model, vae, sampling, store
        self.on_step: Callable[[float], None] = lambda fraction: None
        self._seconds: dict[Candidate, list[float]] = {}
        self.notes: set[str] = set()
        self.last_image: torch.Tensor | None = None
        self._clip = clip
        self._encoded: dict[str, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Latent height and width."""
        ratio = self.model.get_model_object("latent_format").spacial_downscale_ratio
        return self.sampling.height // ratio, self.sampling.width // ratio

    def tokens(self, prompts: Iterable[str]) -> int:
        """The length of the longest of these prompts, encoded."""
        return max(self._encode(prompt)[0][0].shape[1] for prompt in prompts)

    def describe(self, candidate: Candidate, picture: PromptSeed) -> Description:
        """A run as plain data: what it is kept under."""
        return {"steps": candidate.steps, "settings": dataclasses.asdict(candidate.settings), **picture._asdict()}

    def latent(self, candidate: Candidate, picture: PromptSeed) -> torch.Tensor:
        """(1, channels, height, width), drawn now if it has not been."""
        run = self.describe(candidate, picture)
        latent = self.store.latent(run)
        if latent is None:
            start = time.perf_counter()
            drawn = self._draw(candidate, picture)
            if not drawn.isfinite().all():  # not kept: the next try may have other weights or another precision
                return drawn
            self.store.put_latent(run, drawn)
            self._seconds.setdefault(candidate, []).append(time.perf_counter() - start)
            latent = self.store.latent(run)
            assert latent is not None
        return latent

    def seconds_of(self, candidate: Candidate) -> list[float]:
        """Of its runs made this time."""
        return self._seconds.get(candidate, [])

    def image(self, candidate: Candidate, picture: PromptSeed) -> torch.Tensor:
        """(height, width, 3) in 0..1."""
        self.last_image = self.vae.decode(self.latent(candidate, picture))[0, ..., :3].float().cpu()
        return self.last_image

    def _draw(self, candidate: Candidate, picture: PromptSeed) -> torch.Tensor:
        patched = patch.fill(self.model, candidate.settings)
        channels = self.model.get_model_object("latent_format").latent_channels
        empty = torch.zeros(1, channels, *self.size)

        def callback(step: int, _denoised: torch.Tensor, _x: torch.Tensor, total: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            self.on_step((step + 1) / total)

        with quiet():
            latent = comfy.sample.sample(
                patched,
                comfy.sample.prepare_noise(empty, picture.seed),
                candidate.steps,
                self.sampling.cfg,
                self.sampling.sampler_name,
                self.sampling.scheduler,
                self._encode(picture.prompt),
                self._encode(self.sampling.negative),
                empty,
                callback=callback,
                disable_pbar=True,
                seed=picture.seed,
            )
        carried = patch.carried_by(patched)
        if carried.size_error is not None:
            raise ValueError(
                f"Low resolution cannot be compared: {carried.size_error}. Calibrate the model without the node that "
                "fails, or with low_res_scale 1 in lists of your own."
            )
        self.notes.update(carried.last_report["notes"] if carried.last_report else ())
        return latent

    def _encode(self, prompt: str) -> Any:
        if prompt not in self._encoded:
            self._encoded[prompt] = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(prompt))
        return self._encoded[prompt]
