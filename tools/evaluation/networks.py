"""The networks that judge a picture, through torchmetrics: features for FID, CLIP score, LPIPS.

Nothing is downloaded. `check` says before any work what is missing and which command fetches it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_FEATURES = 2048
BACKBONES = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


class MissingWeights(RuntimeError):
    """A network's weights are not where they should be; the message says how to get them."""


@dataclass(frozen=True)
class Judges:
    """Which networks judge, and their weights; None leaves a score out. Paths are absolute.

    `inception` is the file of torch-fidelity's Inception weights; `features` instead a TorchScript file of any network
    from pictures, uint8 (n, 3, height, width), to (n, d). `clip` is a folder, or a name in Hugging Face's cache.
    `lpips` names a backbone, whose ImageNet weights lie in torch's cache or in the file `lpips_weights`.
    """

    inception: str | None = None
    features: str | None = None
    clip: str | None = None
    lpips: str | None = None
    lpips_weights: str | None = None

    @property
    def fid(self) -> bool:
        return bool(self.inception or self.features)


def cached_inception() -> Path:
    return _in_torch_cache(INCEPTION_URL)


def check(judges: Judges) -> None:
    """Raise MissingWeights if a network's weights, or a package it needs, are not there."""
    if judges.inception and importlib.util.find_spec("torch_fidelity") is None:
        raise MissingWeights("FID with the Inception network needs torch-fidelity: pip install torch-fidelity")
    for given, url in ((judges.inception, INCEPTION_URL), (judges.features, None)):
        if given and not Path(given).is_file():
            fetch = f" Fetch it: curl -L --create-dirs -o {given} {url}" if url else ""
            raise MissingWeights(f"The network for FID is missing: {given}.{fetch}")
    if judges.clip and not _has_clip(judges.clip):
        raise MissingWeights(
            f"There is no CLIP model {judges.clip!r}, neither as a folder nor in Hugging Face's cache. "
            f"Fetch it: hf download {judges.clip} (or leave the score out: --clip none)"
        )
    if judges.lpips:
        weights = Path(judges.lpips_weights or _in_torch_cache(_backbone_url(judges.lpips)))
        if not weights.is_file():
            raise MissingWeights(
                f"The backbone of LPIPS is missing: {weights}. Fetch it: curl -L --create-dirs -o {weights} "
                f"{_backbone_url(judges.lpips)} (or leave the score out: --lpips none)"
            )


class Networks:
    """The networks on a device. A picture is a uint8 tensor (1, height, width, 3): what a PNG file holds."""

    def __init__(self, judges: Judges, device: torch.device) -> None:
        self._device = device
        self._fid = _fid(judges, device)
        self._clip_score = _clip_score(judges.clip, device) if judges.clip else None
        self._lpips = _lpips(judges, device) if judges.lpips else None

    @torch.inference_mode()
    def features(self, picture: torch.Tensor) -> torch.Tensor | None:
        """What FID sees of the picture: (d,)."""
        if self._fid is None:
            return None
        return self._fid.inception(self._channels_first(picture)).flatten().float().cpu()

    @torch.inference_mode()
    def clip_score(self, picture: torch.Tensor, prompt: str) -> float | None:
        """100 times the cosine of picture and prompt, not cut off at 0: the mean over all pictures is, at the end."""
        if self._clip_score is None:
            return None
        self._clip_score.reset()
        self._clip_score.update(self._channels_first(picture), [prompt])
        return float(self._clip_score.score)

    @torch.inference_mode()
    def lpips(self, picture: torch.Tensor, reference: torch.Tensor | None) -> float | None:
        if self._lpips is None or reference is None:
            return None
        one, other = (self._channels_first(each).float() / 255 for each in (picture, reference))
        return float(self._lpips(one, other))

    def _channels_first(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.movedim(-1, 1).to(self._device)


def fid_from_features(width: int) -> Any:
    """torchmetrics' FID, to be updated with features (n, width) instead of pictures."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(_AsGiven(width), reset_real_features=False)


class _AsGiven(torch.nn.Identity):
    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _fid(judges: Judges, device: torch.device) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    if judges.features:
        return FrechetInceptionDistance(_torchscript(judges.features)).to(device)
    if judges.inception:
        weights = {"feature_extractor_weights_path": judges.inception}
        return FrechetInceptionDistance(INCEPTION_FEATURES, **weights).to(device)
    return None


def _torchscript(file: str) -> torch.nn.Module:
    """On the CPU, where torchmetrics tries it out."""
    try:
        return torch.jit.load(file, map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"The network for FID, {file}, is no TorchScript file: {error}") from error


def _clip_score(name: str, device: torch.device) -> Any:
    from torchmetrics.multimodal.clip_score import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    class Features(CLIPModel):
        """From transformers 5 on, features come with the whole output around them, which torchmetrics cannot take."""

        def get_image_features(self, *given: Any, **options: Any) -> Any:
            return _pooled(super().get_image_features(*given, **options))

        def get_text_features(self, *given: Any, **options: Any) -> Any:
            return _pooled(super().get_text_features(*given, **options))

    def load() -> tuple[Any, Any]:
        model = Features.from_pretrained(name, local_files_only=True)
        return model.eval(), CLIPProcessor.from_pretrained(name, local_files_only=True)

    return CLIPScore(load).to(device)


def _pooled(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _lpips(judges: Judges, device: torch.device) -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    backbone: Any = judges.lpips
    with _torch_cache_with(judges.lpips_weights, _backbone_url(backbone)):
        return LearnedPerceptualImagePatchSimilarity(backbone, normalize=True).to(device)


@contextlib.contextmanager
def _torch_cache_with(weights: str | None, url: str) -> Iterator[None]:
    """While the block runs, torch finds the file `weights` as what it would download from `url`."""
    if weights is None:
        yield
        return
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory(prefix="postdiff-lpips-") as folder:
        torch.hub.set_dir(folder)
        found = _in_torch_cache(url)
        found.parent.mkdir()
        shutil.copyfile(weights, found)  # a link takes rights that Windows does not give
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def _backbone_url(lpips: str) -> str:
    import torchvision

    weights: Any = torchvision.models.get_model_weights(BACKBONES[lpips])
    return weights.DEFAULT.url


def _in_torch_cache(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def _has_clip(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return (Path(name) / "config.json").is_file()
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except ValueError:  # not a name that Hugging Face could have
        return False
