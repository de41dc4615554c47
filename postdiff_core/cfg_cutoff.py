"""Guidance cut-off (section 2.5 of the paper): from step mT on, only the conditional branch runs."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from .run import Run


def install(run: Run) -> None:
    """Add the cut-off to a run.

    Both results of the guider's pair become the conditional one, so that every guidance function, also those of cfg++
    samplers that read the negative one, gives the conditional prediction. SkipLayerGuidanceDiTSimple and
    DualModelGuider evaluate the pair in two calls, the positive one first.
    """
    alone: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # latent, timestep, the positive prediction
    evaluated_shapes: set[torch.Size] = set()  # of latents for which both prompts have been evaluated

    def wrapper(executor, model, conds, x, timestep, model_options):
        nonlocal alone
        if run.step.guided:
            if len(conds) == 2 and all(conds):
                evaluated_shapes.add(x.shape)
            return executor(model, conds, x, timestep, model_options)
        roles = run.roles_of(conds)
        if sorted(filter(None, roles)) == ["negative", "positive"] and len(conds) == 2:
            positive = roles.index("positive")
            run.guided_rows = 2  # what a stock step would have run
            kept = [cond if i == positive else None for i, cond in enumerate(conds)]
            if _replaces_self_attention(model_options) and x.shape not in evaluated_shapes:
                run.note(
                    "A node that replaces self-attention (such as SelfAttentionGuidance) may read the negative "
                    "prompt's: that was evaluated once at each size, though guidance was dropped."
                )
                evaluated_shapes.add(x.shape)
                kept = conds
            out = executor(model, kept, x, timestep, model_options)
            return [out[positive], out[positive]]
        evaluated = [role for cond, role in zip(conds, roles, strict=True) if cond is not None]
        if evaluated == ["positive"]:
            out = executor(model, conds, x, timestep, model_options)
            alone = x, timestep, out[roles.index("positive")]
            return out
        if evaluated == ["negative"] and alone is not None and alone[0] is x and alone[1] is timestep:
            return [alone[2]] * len(conds)
        if len(evaluated) > 1:
            run.note(
                f"Guidance was not dropped: {type(run.guider).__name__} evaluates {len(evaluated)} conditionings, "
                "not one positive and one negative."
            )
        return executor(model, conds, x, timestep, model_options)

    run.add_wrapper(WrappersMP.CALC_COND_BATCH, wrapper)


def _replaces_self_attention(model_options: dict[str, Any]) -> bool:
    return bool(model_options.get("transformer_options", {}).get("patches_replace", {}).get("attn1"))
