"""What a picture is worth, pair by pair. All of it is emoji-domain: none of it is an FID, a CLIP score or LPIPS."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path

import _quality_encoder
import numpy as np
import torch
from _quality_encoder import FILE as ENCODER_FILE
from _quality_encoder import RealPictures, detail
from _quality_runs import Runs, Shards, Subject
from _quality_settings import FULL, Setting
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance

from postdiff.embedded_model.training import captions
from postdiff.embedded_model.training import judge as judge_module
from postdiff.embedded_model.training.captions import ON_A_BACKGROUND, Prompt, held_out_file, read_held_out
from postdiff.embedded_model.training.config import STYLES
from postdiff.embedded_model.training.judge import SHIPPED, Judge, crop_to_foreground, picture_error

Tensors = dict[str, torch.Tensor]


class Examiner:
    """Judges pictures of the embedded model by the files beside its weights.

    `right`: the nearest of all training pictures is of the concept prompted. `error`: root mean square difference from
    the prompt's own training picture, either way round, place and size removed. `detail`: Laplacian energy;
    `real_detail` is the icon's. `features`: the encoder's. `psnr`, `ssim` and `difference` (root mean
    square): from the full run's picture of the same pair, where a setting keeps the composition.
    """

    def __init__(self, folder: Path = SHIPPED) -> None:
        self.judge = Judge.shipped(folder)
        concepts = json.loads((folder / "concepts.json").read_text(encoding="utf-8"))
        self._icons = {
            (style, name): (style, about[package])
            for name, about in concepts.items()
            for style, (package, _version) in STYLES.items()
        }
        self._row = {pair: row for row, pair in enumerate(self.judge.pairs)}
        self._folder = folder

    @cached_property
    def key(self) -> str:
        """Changes with everything that scores depend on, besides the pictures."""
        sheet = self._folder / "training_pictures.webp"
        code = (__file__, *(each.__file__ for each in (judge_module, captions, _quality_encoder)))
        read = (*map(Path, code), ENCODER_FILE, self._folder / "concepts.json", sheet)
        return hashlib.sha256(b"".join(file.read_bytes() for file in read)).hexdigest()[:16]

    @cached_property
    def real(self) -> RealPictures:
        """The encoder and the real icons' detail. Raises ValueError if they do not suit the shipped model."""
        real = RealPictures()
        real.check_split(set(self._icons.values()))
        return real

    @property
    def prompts(self) -> list[str]:
        """`<style> <concept>` for every concept trained, and where there are any, those on backgrounds held out."""
        held_out = read_held_out(self._folder)[ON_A_BACKGROUND] if held_out_file(self._folder).is_file() else []
        return [" ".join(pair) for pair in self._row] + held_out

    def real_features(self) -> torch.Tensor:
        return self._features(self.judge.crops)

    def scores(self, pictures: torch.Tensor, prompts: list[str], full: torch.Tensor | None) -> Tensors:
        """Scores of (n, h, w, 3) pictures, a tensor of n rows each; `full` are the full run's of the same pairs."""
        scores = self.judged(pictures, prompts) | {
            "detail": torch.tensor([detail(picture.numpy()) for picture in pictures]),
            "real_detail": torch.tensor([self._real_detail(Prompt.parse(prompt)) for prompt in prompts]),
            "features": self._features(np.stack([crop_to_foreground(picture.numpy()) for picture in pictures])),
        }
        return scores if full is None else scores | likeness(pictures, full)

    def judged(self, pictures: torch.Tensor, prompts: list[str]) -> Tensors:
        """`right` and `error` alone."""
        shown = [picture.numpy() for picture in pictures]
        asked = [Prompt.parse(prompt) for prompt in prompts]
        right = [self.judge.right(picture, prompt) for picture, prompt in zip(shown, asked, strict=True)]
        own = [self.judge.crops[self._row[_shown(prompt)]] for prompt in asked]
        error = [picture_error(*each) for each in zip(shown, own, strict=True)]
        return {"right": torch.tensor(right), "error": torch.tensor(error)}

    def _real_detail(self, prompt: Prompt) -> float:
        return self.real.detail[self._icons[_shown(prompt)]]

    def _features(self, crops: np.ndarray) -> torch.Tensor:
        return self.real.encoder(torch.from_numpy(crops).permute(0, 3, 1, 2))


def _shown(prompt: Prompt) -> tuple[str, str]:
    """(style, concept) of a prompt for one object."""
    (name,) = prompt.names
    return prompt.style, name


def likeness(pictures: torch.Tensor, full: torch.Tensor) -> Tensors:
    """How close pictures are to the full run's of the same pairs; psnr in dB."""
    one, other = (each.permute(0, 3, 1, 2) for each in (pictures, full))
    each = (1, 2, 3)
    ssim = structural_similarity_index_measure(one, other, data_range=1.0, reduction="none")
    assert isinstance(ssim, torch.Tensor)  # a tuple where more is asked for
    return {
        "psnr": peak_signal_noise_ratio(one, other, data_range=(0.0, 1.0), reduction="none", dim=each),
        "ssim": ssim,
        "difference": (one - other).square().mean(each).sqrt(),
    }


def frechet_distance(real: torch.Tensor, drawn: torch.Tensor) -> float:
    """Between two sets of features (n, d); n must exceed d for it to mean much."""

    class Ready(torch.nn.Identity):
        num_features = real.shape[1]

    metric = FrechetInceptionDistance(feature=Ready())
    metric.set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    return float(metric.compute())


class Scorebook:
    """Scores of stored pictures, kept beside them and made again when judge, encoder or this file change."""

    def __init__(self, runs: Runs, examiner: Examiner) -> None:
        self._runs, self._examiner = runs, examiner

    @property
    def _folder(self) -> Path:
        return self._runs.folder / f"scores-{self._examiner.key}"

    def score(self, setting: Setting, pairs: range) -> None:
        """Score one stored run, unless that is done."""
        shards = Shards(self._folder, setting)
        if pairs in shards.ranges():
            return
        subject = self._runs.subject
        latents = self._runs.shards(setting).read(pairs)
        full = self._full(pairs) if setting.keeps_composition else None
        prompts = [subject.prompt(pair) for pair in pairs]
        scores = self._examiner.scores(subject.decode(latents["latents"]), prompts, full)
        shards.write(pairs, scores | {"macs": latents["macs"]})

    def read(self, setting: Setting, pairs: int) -> Tensors:
        """Everything known about the first `pairs` pairs."""
        shards = Shards(self._folder, setting)
        parts = [shards.read(some) for some in shards.ranges()]
        if not parts:
            return {}
        return {name: torch.cat([part[name] for part in parts])[:pairs] for name in parts[0]}

    def _full(self, pairs: range) -> torch.Tensor:
        shards = self._runs.shards(FULL)
        if shards.done < pairs.stop:
            raise RuntimeError("The full run's pictures of these pairs are missing.")
        found = [(some, shards.read(some)["latents"]) for some in shards.ranges() if some.stop > pairs.start]
        first = found[0][0].start
        latents = torch.cat([latents for _some, latents in found])[pairs.start - first :][: len(pairs)]
        return self._runs.subject.decode(latents)


def subject_and_examiner(dtype: torch.dtype | None = None, first: int = 0) -> tuple[Subject, Examiner]:
    examiner = Examiner()
    return Subject(examiner.prompts, dtype=dtype, first=first), examiner
