"""A training loop that can be stopped at any time and continues exactly where its last checkpoint left it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .config import Training

CHECKPOINT_SECONDS = 150


def learning_rate_factor(step: int, plan: Training) -> float:
    """Linear warm-up, constant or falling with the square root, linear fall to zero over the last `decay_share`."""
    decay_steps = max(1, round(plan.steps * plan.decay_share))
    held = 1.0 if plan.hold_steps is None else (plan.hold_steps / max(step, plan.hold_steps)) ** 0.5
    return held * min(1.0, (step + 1) / plan.warmup_steps, (plan.steps - step) / decay_steps)


def averaged_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of a stage's last checkpoint, finished or not."""
    if not (folder / "checkpoint.pt").exists():
        raise FileNotFoundError(f"no checkpoint in {folder}: run the stage {folder.name!r} first")
    average = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")["average"]
    return {key.removeprefix("module."): value for key, value in average.items() if key.startswith("module.")}


class Optimizers:
    """AdamW for all weights; with `plan.muon` set, Muon for the matrices inside the network (Jordan 2024).

    Muon gives every direction of a matrix the same step, so that what few pictures show is learnt as fast as the rest.
    It takes matrices only: a convolution is seen as one, (out, in * height * width), that shares its memory.
    """

    def __init__(self, network: nn.Module, plan: Training):
        self.plan = plan
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.matrices = [p for name, p in trained.items() if plan.muon is not None and p.ndim > 1 and is_hidden(name)]
        self.views = [nn.Parameter(p.data.flatten(1)) for p in self.matrices]
        hidden = {id(p) for p in self.matrices}
        others = [p for p in trained.values() if id(p) not in hidden]
        self.parameters = list(trained.values())
        adamw = torch.optim.AdamW(others, lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.members: list[torch.optim.Optimizer] = [adamw]
        self.rates = [plan.learning_rate]
        if plan.muon is not None:
            self.members.append(
                torch.optim.Muon(self.views, lr=plan.muon, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
            self.rates.append(plan.muon)

    def step(self, step: int) -> None:
        """Take one step at the learning rates of step number `step`, and clear the gradients."""
        for member, rate in zip(self.members, self.rates, strict=True):
            for group in member.param_groups:
                group["lr"] = rate * learning_rate_factor(step, self.plan)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for view, matrix in zip(self.views, self.matrices, strict=True):
            view.grad = None if matrix.grad is None else matrix.grad.flatten(1)
        for member in self.members:
            member.step()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> list[dict]:
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, states: list[dict]) -> None:
        for member, state in zip(self.members, states, strict=True):
            member.load_state_dict(state)


def is_hidden(name: str) -> bool:
    """Whether a U-Net's weight lies between its first and last layers."""
    return name.startswith("unet.") and not name.startswith(("unet.input_blocks.0.", "unet.out.", "unet.time_embed."))


def train(
    network: nn.Module,
    loss_at: Callable[[int], torch.Tensor],
    plan: Training,
    folder: Path,
    minutes: float = 90,
    stop_at: int | None = None,
) -> bool:
    """Train `network` in place and leave a checkpoint in `folder`. True when all steps are done.

    `loss_at(step)` must depend on nothing but the step and the weights: with that, a resumed run is the uninterrupted
    one. `minutes` and `stop_at` end the call early, with a checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(plan.ema_decay))
    optimizers = Optimizers(network, plan)
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start = state["step"]
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizers.load_state_dict(state["optimizers"])

    def save(step: int) -> None:
        state = {
            "step": step,
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizers": optimizers.state_dict(),
        }
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    network.train()
    step, losses, began, saved = start, [], time.monotonic(), time.monotonic()
    end = min(plan.steps, stop_at or plan.steps)
    with tqdm(
        total=plan.steps, initial=start, desc=folder.name, unit="step", smoothing=0.05, mininterval=5
    ) as progress:
        try:
            while step < end and time.monotonic() - began < 60 * minutes:
                loss = loss_at(step)
                loss.backward()
                optimizers.step(step)
                average.update_parameters(network)
                step += 1
                losses.append(loss.item())
                progress.update()
                if step % 100 == 0:
                    mean = sum(losses) / len(losses)
                    losses.clear()
                    progress.set_postfix(loss=f"{mean:.4f}")
                    with (folder / "log.jsonl").open("a") as log:
                        log.write(json.dumps({"step": step, "loss": mean, "seconds": time.monotonic() - began}) + "\n")
                if time.monotonic() - saved > CHECKPOINT_SECONDS:
                    save(step)
                    saved = time.monotonic()
        finally:
            if step > start:
                save(step)
    return step >= plan.steps
