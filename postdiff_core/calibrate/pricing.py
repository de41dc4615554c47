"""What a run costs before it is made: its plan under its own sigmas, priced by the cost model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import comfy.samplers

from .. import mixed_resolution
from ..architecture import Size, diffusion_model_of
from ..cost import UncountableModel, plan_work, planned_rows
from ..planning import lay_out
from ..schedule import Plan, Step
from .grid import Candidate


@dataclass(frozen=True)
class Pricing:
    """Plans and costs of a MODEL's runs at one latent size (height, width), for prompts of `tokens` tokens.

    Costs are work, attention products included, as shares of a stock run in `stock_steps` steps. Where the model's work
    cannot be counted (a run's notes say why), a step is taken to cost what its pixels and rows do.
    """

    model: Any
    sampler_name: str
    scheduler: str
    cfg: float
    size: Size
    tokens: int
    stock_steps: int

    def share(self, candidate: Candidate) -> float:
        """The candidate's cost over the stock run's."""
        laid_out, low = self.plan(candidate)
        cache, guided_rows = candidate.settings.deep_cache, 1 if self.cfg == 1.0 else 2
        rows = planned_rows(laid_out, guided_rows)
        try:
            work = plan_work(
                self.model.model,
                laid_out,
                self.size,
                low,
                tokens=self.tokens,
                rows=rows,
                depth=cache.depth if cache else None,
            )
        except UncountableModel:
            taken = (self._pixels(step, low) * each.run for step, each in zip(laid_out.steps, rows, strict=True))
            return sum(taken) / (guided_rows * self.stock_steps)
        return work.total.total / work.stock.total * len(laid_out.steps) / self.stock_steps

    def distinct(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Without those whose run would be the same as an earlier one's, step by step."""
        return list({self.plan(candidate): candidate for candidate in reversed(list(candidates))}.values())[::-1]

    def plan(self, candidate: Candidate) -> tuple[Plan, Size | None]:
        """What each step of the run does, and the latent size of its low-resolution steps."""
        sigmas, model_sampling = self._sigmas(candidate.steps), self.model.get_model_object("model_sampling")
        return lay_out(candidate.settings, sigmas, model_sampling, self.size, self._low_size(candidate))

    def _sigmas(self, steps: int) -> list[float]:
        device = self.model.load_device
        return comfy.samplers.KSampler(self.model, steps, device, self.sampler_name, self.scheduler).sigmas.tolist()

    def _low_size(self, candidate: Candidate) -> Size | None:
        mixed = candidate.settings.mixed_resolution
        if mixed is None:
            return None
        low, _ = mixed_resolution.low_resolution(mixed, self.size, diffusion_model_of(self.model))
        return low

    def _pixels(self, step: Step, low: Size | None) -> float:
        """As a share of the full size's."""
        return low[0] * low[1] / (self.size[0] * self.size[1]) if step.low_res and low else 1.0
