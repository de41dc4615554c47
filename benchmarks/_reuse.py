"""What a step errs, at a noise level of the exact run, if its deep branch is reused or if it is left out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import comfy.sample
import comfy.samplers
import torch

from postdiff.postdiff_core import patch
from postdiff.postdiff_core.schedule import DeepCache

DEPTH = 2


class StepError(NamedTuple):
    """Differences from the exact velocity of a step, root mean square and relative to it."""

    step: int
    sigma: float
    reused: float  # with the deep feature of the step before
    left_out: float  # with the whole velocity of the step before, as one step of twice the length has it


def step_errors(inputs: dict[str, Any]) -> list[StepError]:
    """The errors of each second step, both ways given the exact run's latent; `inputs` are a stock KSampler's."""
    exact = _Recorder()
    _sample(inputs, inputs["model"], exact)
    reused = _Recorder(exact.latents)
    _sample(inputs, patch.add(inputs["model"], DeepCache(interval=2, depth=DEPTH)), reused)
    return [
        StepError(
            step,
            exact.sigmas[step],
            _relative(reused.velocities[step], exact.velocities[step]),
            _relative(exact.velocities[step - 1], exact.velocities[step]),
        )
        for step in range(1, len(exact.velocities), 2)
    ]


def _relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


class _Recorder:
    """An Euler sampler that keeps what it meets; `latents` given, it evaluates at those instead of its own."""

    def __init__(self, given: list[torch.Tensor] | None = None) -> None:
        self.given = given
        self.latents: list[torch.Tensor] = []
        self.velocities: list[torch.Tensor] = []
        self.sigmas: list[float] = []

    def __call__(self, model: Callable, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict, **_: Any) -> Any:
        for step, (sigma, after) in enumerate(pairwise(sigmas)):
            x = self.given[step] if self.given else x
            velocity = (x - model(x, sigma.expand(x.shape[0]), **extra_args)) / sigma
            self.latents.append(x)
            self.velocities.append(velocity)
            self.sigmas.append(float(sigma))
            x = x + (after - sigma) * velocity
        return x


def _sample(inputs: dict[str, Any], model: Any, recorder: _Recorder) -> None:
    latent = comfy.sample.fix_empty_latent_channels(model, inputs["latent_image"]["samples"])
    schedule = comfy.samplers.KSampler(
        model, inputs["steps"], model.load_device, inputs["sampler_name"], inputs["scheduler"]
    ).sigmas
    comfy.sample.sample_custom(
        *(model, comfy.sample.prepare_noise(latent, inputs["seed"]), inputs["cfg"]),
        *(comfy.samplers.KSAMPLER(recorder), schedule, inputs["positive"], inputs["negative"], latent),
        disable_pbar=True,
        seed=inputs["seed"],
    )
