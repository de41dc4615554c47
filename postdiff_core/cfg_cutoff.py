"""Guidance cut-off (section 2.5 of the paper): from step mT on, only the conditional branch runs."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

from .run import Run

Conds = list[Any]  # one list of conditionings for each prediction asked for, or None in its place
Predictions = list[torch.Tensor]

TAKEN_BY_A_NODE = (
    "Guidance was not dropped: a node takes the predictions of both prompts for itself, before the guider has them (as "
    "weights of combined prompts in smZNodes do)."
)
NOTHING_TO_DROP = "CFG Cut-off does nothing here: no negative prompt runs, as at cfg 1."


def install(run: Run, *, by_name: bool) -> None:
    """Add the cut-off to a run; asked for `by_name`, the run notes if there was nothing to drop."""
    run.add_wrapper(WrappersMP.CALC_COND_BATCH, _Cutoff(run))
    if by_name:
        run.note_at_end(lambda: None if run.has_guidance else NOTHING_TO_DROP)


class _Cutoff:
    """Gives both predictions of the guider's pair the conditional one, and leaves the other branch out.

    With that every guidance function gives the conditional prediction, also those of cfg++ samplers that read the
    negative one. SkipLayerGuidanceDiTSimple and DualModelGuider evaluate the pair in two calls, the positive one first.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        # Of a positive prompt evaluated alone: latent, timestep, its prediction.
        self.last_positive: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
        self.evaluated_shapes: set[torch.Size] = set()  # of latents for which both prompts have been evaluated
        self.are_taken = False  # the predictions, by a node that leaves the guider others

    def __call__(
        self, executor: Any, model: Any, conds: Conds, x_in: torch.Tensor, timestep: torch.Tensor, model_options: dict
    ) -> Predictions:
        def evaluate(conds: Conds) -> Predictions:
            return executor(model, conds, x_in, timestep, model_options)

        if self.run.step.guided or self.are_taken:
            if len(conds) == 2 and all(conds):
                self.evaluated_shapes.add(x_in.shape)
            return self._noting_those_taken(evaluate(conds), conds)
        roles = self.run.branches.roles_of(conds)
        asked = [role for cond, role in zip(conds, roles, strict=True) if cond is not None]
        if len(conds) == 2 and set(asked) == {"positive", "negative"}:
            positive = roles.index("positive")
            both_once = _replaces_self_attention(model_options) and x_in.shape not in self.evaluated_shapes
            left = conds if both_once else [cond if i == positive else None for i, cond in enumerate(conds)]
            predictions = self._noting_those_taken(evaluate(left), conds)
            if self.are_taken:
                return evaluate(conds)
            if both_once:
                self._note_both_evaluated_once(x_in.shape)
            else:
                self.run.row_tally.left_out(self.run.step, conds[1 - positive], self.run.sigma)
            self._note_other_readers()
            return [predictions[positive], predictions[positive].clone()]  # a guidance function may write to either
        if asked == ["positive"]:
            predictions = evaluate(conds)
            self.last_positive = x_in, timestep, predictions[roles.index("positive")]
            return predictions
        if asked == ["negative"] and (prediction := self._positive_at(x_in, timestep)) is not None:
            self.run.row_tally.left_out(self.run.step, conds[roles.index("negative")], self.run.sigma)
            return [prediction.clone() for _ in conds]
        if len(asked) > 1:
            self.run.keep_guidance(
                f"Guidance was not dropped: {type(self.run.guider).__name__} evaluates {len(asked)} conditionings, "
                "not one positive and one negative."
            )
        return evaluate(conds)

    def _noting_those_taken(self, predictions: Predictions, conds: Conds) -> Predictions:
        """The predictions; if there is not one for each of `conds`, guidance goes on from now on."""
        if len(predictions) != len(conds):
            self.are_taken = True
            self.run.keep_guidance(TAKEN_BY_A_NODE)
        return predictions

    def _positive_at(self, x_in: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor | None:
        """The prediction of the positive prompt, if it was evaluated just before on the same latent."""
        if self.last_positive is None:
            return None
        latent, when, prediction = self.last_positive
        return prediction if latent is x_in and when is timestep else None

    def _note_other_readers(self) -> None:
        if getattr(self.run.guider, "cfg", None) == 1.0:
            self.run.note(
                "At cfg 1 the negative prompt runs only because a node or the sampler asks for it (NAGuidance, cfg++). "
                "The guidance cut-off drops it, and with it the effect of that node or sampler, in the last steps. To "
                "keep the effect to the end, put CFG Cut-off with start_percent 1 on the model."
            )

    def _note_both_evaluated_once(self, shape: torch.Size) -> None:
        self.evaluated_shapes.add(shape)
        self.run.note(
            "A node that replaces self-attention (such as SelfAttentionGuidance) may read the negative prompt's: that "
            "was evaluated once at each size, though guidance was dropped."
        )


def _replaces_self_attention(model_options: dict[str, Any]) -> bool:
    return bool(model_options.get("transformer_options", {}).get("patches_replace", {}).get("attn1"))
