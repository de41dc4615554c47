"""Which rows of a batch belong to which conditioning, from one evaluation to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Role = Literal["positive", "negative"]


class Branch(NamedTuple):
    """What tells one chunk of a batch from every other in the same evaluation, and is the same in the next one.

    `model_pass` counts the guider's calls of calc_cond_batch in an evaluation: PAG and SAG repeat a conditioning (and
    its uuid) in a pass of their own. `index` counts the lists of conditionings in that call: a prompt with an area is
    copied to the other list under its own uuid. `occurrence` counts the model calls for one of them: tiled diffusion
    makes a call for each tile. Where a call's rows cannot be told apart, `index` and `uuid` are those of all of them.
    """

    model_pass: int
    index: Hashable
    uuid: Hashable
    occurrence: int
    batch: int
    device: torch.device
    window: Hashable


@dataclass(frozen=True)
class Chunk:
    """The part of a batch that one conditioning takes: `span` are its rows in the tensors of this model call.

    `guided` says that this pass runs positive and negative conditionings and nothing else.
    """

    branch: Branch
    role: Role | None
    guided: bool
    span: slice


def without_negative(chunks: Sequence[Chunk]) -> list[Chunk]:
    """The chunks that the cut-off leaves."""
    return [chunk for chunk in chunks if not (chunk.guided and chunk.role == "negative")]


def _frames(transformer_options: Mapping) -> tuple[int, ...] | None:
    """The frames that a model call of a context window is given: the host's, or those of AnimateDiff-Evolved."""
    window = transformer_options.get("context_window")
    if window is not None:
        return tuple(window.index_list)
    frames = transformer_options.get("ad_params", {}).get("sub_idxs")
    return None if frames is None else tuple(frames)


class Branches:
    """Follows a guider through its evaluations: the passes of each, and the model calls of each pass."""

    def __init__(self) -> None:
        self._prompts: dict[Role, set[Hashable]] = {}  # uuids of the guider's own conditionings
        self._partners: dict[tuple[Hashable, Hashable], tuple[Hashable, Hashable]] = {}
        self._model_pass = -1
        self._pass_roles: list[Role | None] = []
        self._pass_pictures = 0
        self._pass_is_guided = False
        self._occurrences: Counter = Counter()

    def begin_evaluation(self, guider_conds: Mapping[str, Sequence[dict]]) -> None:
        """The guider evaluates the model; its conditionings have their uuids from the first time on."""
        self._model_pass = -1
        if not self._prompts:
            roles: tuple[Role, ...] = ("positive", "negative")
            self._prompts = {
                role: {entry["uuid"] for entry in guider_conds[role]} for role in roles if guider_conds.get(role)
            }

    def begin_pass(self, conds: Sequence[Sequence[dict] | None], *, pictures: int) -> None:
        """The guider calls calc_cond_batch with these lists of conditionings."""
        self._model_pass += 1
        self._occurrences.clear()
        self._pass_roles = self.roles_of(conds)
        self._pass_pictures = pictures
        pair = [(index, cond[0]["uuid"]) for index, cond in enumerate(conds) if cond and len(cond) == 1]
        self._pass_is_guided = len(conds) == 2 and set(self._pass_roles) == {"positive", "negative"}
        if self._pass_is_guided and len(pair) == 2:
            one, other = pair
            self._partners.update({one: other, other: one})

    def roles_of(self, conds: Sequence[Sequence[dict] | None]) -> list[Role | None]:
        """The role of each list of conditionings in a calc_cond_batch call; None for absent or unknown ones."""
        return [self._role(cond) if cond else None for cond in conds]

    def conditionings(self, transformer_options: dict) -> list[tuple[Role | None, Hashable]]:
        """Role and uuid of each conditioning in a model call: a prompt with an area runs for both roles under one."""
        indices, uuids = transformer_options["cond_or_uncond"], transformer_options["uuids"]
        return list(zip(map(self._role_at, indices), uuids, strict=True))

    def chunks(self, x: torch.Tensor, transformer_options: dict) -> tuple[Chunk, ...]:
        """The chunks of a model call on `x` (B, ...), as the host lays them out: one a conditioning.

        Where another node lays them out its own way, as tiles in one batch, they are one chunk without a role.
        """
        indices, uuids = transformer_options["cond_or_uncond"], transformer_options["uuids"]
        conds = list(zip(indices, uuids, strict=True))
        roles = map(self._role_at, indices)
        window = _frames(transformer_options)
        batch = self._pass_pictures
        if x.shape[0] != batch * len(conds):
            branch = self._branch(tuple(indices), tuple(uuids), x.shape[0], x.device, window)
            return (Chunk(branch, None, guided=False, span=slice(0, x.shape[0])),)
        return tuple(
            Chunk(
                self._branch(index, uuid, batch, x.device, window),
                role,
                self._pass_is_guided,
                slice(position * batch, (position + 1) * batch),
            )
            for position, ((index, uuid), role) in enumerate(zip(conds, roles, strict=True))
        )

    def partner_of(self, branch: Branch) -> Branch | None:
        """The same branch of the other role, where exactly one positive and one negative conditioning ran together."""
        other = self._partners.get((branch.index, branch.uuid))
        return None if other is None else branch._replace(index=other[0], uuid=other[1])

    def _role_at(self, index: int) -> Role | None:
        """The role of a list of conditionings of this pass."""
        return self._pass_roles[index] if index < len(self._pass_roles) else None

    def _role(self, cond: Sequence[dict]) -> Role | None:
        uuids = {entry["uuid"] for entry in cond}
        same = [role for role, prompts in self._prompts.items() if uuids == prompts]
        among = [role for role, prompts in self._prompts.items() if uuids <= prompts]  # context windows take a part
        found = same or among
        return found[0] if len(found) == 1 else None

    def _branch(self, index: Hashable, uuid: Hashable, batch: int, device: torch.device, window: Hashable) -> Branch:
        """The branch of the next model call for these conditionings."""
        seen = (index, uuid, device)
        self._occurrences[seen] += 1
        return Branch(self._model_pass, index, uuid, self._occurrences[seen] - 1, batch, device, window)
