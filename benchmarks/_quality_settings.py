"""The settings that `quality` compares, as stock KSampler inputs and real nodes, and the tables they make."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

STEPS = 20
# Noise of theirs is the same for all pairs, because it follows from the seed, which pairs share.
NOISY_SAMPLERS = ("euler_ancestral", "dpmpp_2m_sde")
OTHER_SAMPLERS = (*NOISY_SAMPLERS, "dpmpp_2m", "res_multistep")
HEADLINE_PAIRS, GRID_PAIRS, GATE_PAIRS, ALONE_PAIRS = 1024, 128, 200, 8
FIRST_OF_GRIDS = 512  # pairs on which nothing was chosen: the switch was on the first, where the full run is lucky
PAPER_M = 0.75

Node = tuple[str, Mapping[str, Any]]  # a node's id and the inputs that are not at their defaults


@dataclass(frozen=True)
class Setting:
    """One way to draw a picture: MODEL patches in order, then a sampler node. `group` is its curve or column."""

    name: str
    group: str
    patches: tuple[Node, ...] = ()
    sampler: Node = ("KSampler", {})
    steps: int = STEPS
    # Caches and the cut-off keep the composition, so that a same-seed picture can be compared pixel by pixel.
    keeps_composition: bool = False
    # What looks at the whole batch, or draws from the global generator, would mix up pictures that share a run.
    one_at_a_time: bool = False

    def document(self) -> dict[str, Any]:
        """What decides the pictures, as plain data; names and groups do not."""
        nodes = [[name, dict(inputs)] for name, inputs in (*self.patches, self.sampler)]
        return {"nodes": nodes, "steps": self.steps, "one_at_a_time": self.one_at_a_time}

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Table:
    """Settings measured on the same pairs."""

    name: str
    title: str
    settings: tuple[Setting, ...]
    pairs: int = GRID_PAIRS
    first: int = FIRST_OF_GRIDS  # of its pairs
    notes: tuple[str, ...] = ()
    # Settings of the first groups are compared with those of the last that take as much work or a little more.
    compared: tuple[str, ...] = ()
    against: tuple[tuple[str, str], ...] = ()  # names of settings, each compared with the second of its pair


PAPERS, MATCHED_SWITCH, LATER_CACHE = (
    "PostDiff, as in the paper",
    "PostDiff, matched switch",
    "PostDiff, later deep cache",
)
FEWER_STEPS = "fewer steps"
FEWER_MIXED_STEPS = "fewer steps, mixed resolution"
FULL = Setting("full", "full run")
PRESET = Setting("shipped preset", LATER_CACHE, sampler=("PostDiffKSampler", {"preset": "embedded"}))


def postdiff(
    name: str,
    *,
    beta: float | None = None,
    s: float = 0.5,
    k: int | None = None,
    depth: int = 2,
    deep_from: float = 0.0,
    m: float | None = None,
    mode: str = "cond",
    cross_attn: bool = True,
    cutoff: bool = True,
    steps: int = STEPS,
    group: str = "PostDiff",
    **at_the_switch: str | None,
) -> Setting:
    """PostDiff's own nodes in a row, in the paper's symbols; what is None is absent or at its default."""
    patches: list[Node] = []
    if k is not None:
        begins = {"start_percent": deep_from} if deep_from else {}
        patches.append(("DeepCachePatch", {"interval": k, "depth": depth, **begins}))
    if m is not None and cross_attn:
        patches.append(("CrossAttnCachePatch", {"start_percent": m, "mode": mode}))
    if m is not None and cutoff:
        patches.append(("CFGCutoff", {"start_percent": m}))
    sampler: Node = ("KSampler", {})
    if beta is not None:
        changed = {name: value for name, value in at_the_switch.items() if value}
        sampler = ("MixedResolutionKSampler", {"low_res_scale": beta, "low_res_until": s, **changed})
    return Setting(name, group, tuple(patches), sampler, steps, keeps_composition=beta is None and steps == STEPS)


def fewer_steps(steps: int) -> Setting:
    return Setting(f"{steps} steps", FEWER_STEPS, steps=steps)


def peer(node: str, one_at_a_time: bool = False, **inputs: Any) -> Setting:
    """A core node that patches a MODEL, as a user would put it before the KSampler."""
    told = ", ".join(f"{name} {value}" for name, value in inputs.items())
    return Setting(f"{node} {told}".strip(), node, ((node, inputs),), one_at_a_time=one_at_a_time)


def with_sampler(setting: Setting, name: str) -> Setting:
    """The same nodes told to use another of ComfyUI's samplers."""
    node, inputs = setting.sampler
    sampler: Node = (node, {**inputs, "sampler_name": name})
    noisy = name in NOISY_SAMPLERS
    return replace(setting, name=f"{setting.name}, {name}", sampler=sampler, one_at_a_time=noisy)


def _preset() -> Table:
    return Table("preset", "The shipped preset", (FULL, PRESET), HEADLINE_PAIRS, first=0)


def _with_matched_switch(m: float | None = PAPER_M) -> Setting:
    return postdiff(f"matched, {_cutoff_name(m)}", beta=0.5, k=2, m=m, switch="matched", group=MATCHED_SWITCH)


def _with_later_cache(m: float | None = PAPER_M, k: int = 3, depth: int = 2) -> Setting:
    changed = (f"k {k}" if k != 3 else None, f"depth {depth}" if depth != 2 else None, _cutoff_name(m))
    name = ", ".join(("later", *filter(None, changed)))
    return postdiff(name, beta=0.5, k=k, depth=depth, deep_from=0.25, m=m, switch="matched", group=LATER_CACHE)


def _cutoff_name(m: float | None) -> str:
    return "no cut-off" if m is None else f"m {m}"


def _frontier() -> Table:
    cutoffs = (PAPER_M, 0.45, 0.6, 0.9, None)
    return Table(
        "frontier",
        "Fewer steps or cheaper steps (Fig. 5)",
        (
            FULL,
            PRESET,
            *map(fewer_steps, (10, 8, 6, 14, 12)),
            *(postdiff(_cutoff_name(m), beta=0.5, k=2, m=m, group=PAPERS) for m in cutoffs),
            *map(_with_matched_switch, cutoffs),
            *(_with_later_cache(m) for m in cutoffs if m != PAPER_M),  # that is the preset
        ),
        HEADLINE_PAIRS,
        first=0,
        notes=(
            "PostDiff: beta 0.5, s 0.5, T = 20; m is where guidance and cross-attention stop. k 2 from the first step "
            "on as in the paper, then with the matched switch, then k 3 from a quarter of the run on besides: of these "
            "the shipped preset is m 0.75.",
        ),
        compared=(LATER_CACHE, MATCHED_SWITCH, PAPERS, FEWER_STEPS),
    )


def _after_mixed_resolution() -> Table:
    def mixed(steps: int) -> Setting:
        name = f"{steps} steps, mixed resolution"
        return postdiff(name, beta=0.5, switch="matched", steps=steps, group=FEWER_MIXED_STEPS)

    papers, shallower = _with_matched_switch(), _with_later_cache(depth=1)
    return Table(
        "after-mixed",
        "After mixed resolution: fewer steps, or caches and cut-off",
        (FULL, PRESET, papers, mixed(12), mixed(10), mixed(8), shallower, _with_later_cache(k=2)),
        HEADLINE_PAIRS,
        first=0,
        notes=(
            "beta 0.5, s 0.5 and the matched switch in all rows but the full run; T = 20 and m 0.75 where nothing else "
            "is said. The deep cache has k 2 from the first step on, as in the paper, or begins later, at a quarter of "
            "the run, with k 3 as in the shipped preset. k 3 with depth 2 was chosen on 40 and 256 other pairs; that a "
            "later beginning is better had been seen on these before.",
        ),
        against=(
            *((PRESET.name, papers.name), (PRESET.name, mixed(12).name), (PRESET.name, mixed(10).name)),
            *((shallower.name, papers.name), (shallower.name, mixed(10).name), (shallower.name, mixed(8).name)),
            (papers.name, mixed(10).name),
        ),
    )


def _switch() -> Table:
    def both(name: str, **given: Any) -> list[Setting]:
        return [
            postdiff(f"{rule}, {name}", beta=0.5, switch=rule if rule != "paper" else None, group=rule, **given)
            for rule in ("paper", "matched")
        ]

    methods = ("bicubic", "nearest-exact")
    enlarged = [each for method in methods for each in both(f"s 0.5, {method}", upscale_method=method)]
    return Table(
        "switch",
        "The noise level after the switch of resolution",
        (FULL, *both("s 0.5"), *both("s 0.5, k 2, m 0.75", k=2, m=PAPER_M), *both("s 0.25", s=0.25), *enlarged),
        notes=("beta 0.5; both rules take the same steps at the same sizes, so the work is equal.",),
        compared=("matched", "paper"),
        against=(
            ("matched, s 0.5", "paper, s 0.5, nearest-exact"),
            ("matched, s 0.5, nearest-exact", "matched, s 0.5"),
        ),
    )


def _low_resolution_steps() -> Table:
    grid = (
        postdiff(f"s {s}, T {steps}", beta=0.5, s=s, steps=steps, group=f"T {steps}")
        for steps in (20, 16, 12, 8)
        for s in (0.25, 0.5, 0.75)
    )
    fewer = (fewer_steps(steps) for steps in (16, 12, 8))
    return Table(
        "s", "Low-resolution share s and steps T (Fig. 4)", (FULL, *fewer, *grid), notes=("Mixed resolution only.",)
    )


def _low_resolution_scale() -> Table:
    scales = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
    grid = (postdiff(f"beta {beta}", beta=beta, s=0.5, group="beta") for beta in scales)
    return Table("beta", "Low-resolution scale beta (Fig. 8)", (FULL, *grid), notes=("Mixed resolution only, s 0.5.",))


def _cache_modes() -> Table:
    grid = (
        postdiff(f"{mode}, m {m}", k=2, m=m, mode=mode, group=mode)
        for m in (0.25, 0.5, PAPER_M)
        for mode in ("cond", "average", "uncond", "cfg")
    )
    return Table("modes", "What the cross-attention cache keeps (Table 1)", (FULL, postdiff("k 2", k=2), *grid))


def _intervals() -> Table:
    return Table(
        "k-m",
        "Cache interval k and cut-off m (Table 5)",
        (
            FULL,
            *(postdiff(f"k {k}", beta=0.5, k=k, m=PAPER_M, group="k") for k in (2, 3, 4, 5)),
            *(postdiff(f"m {m}", beta=0.5, k=2, m=m, group="m") for m in (0.45, 0.6, PAPER_M, 0.9)),
        ),
        notes=("beta 0.5, s 0.5; m 0.75 where k varies, k 2 where m varies.",),
    )


def alone() -> tuple[Setting, ...]:
    """Each technique by itself at the paper's settings."""
    return (
        postdiff("mixed resolution", beta=0.5, s=0.5, group="alone"),
        postdiff("deep cache", k=2, group="alone"),
        postdiff("cross-attention cache", m=PAPER_M, cutoff=False, group="alone"),
        postdiff("guidance cut-off", m=PAPER_M, cross_attn=False, group="alone"),
    )


def _techniques() -> Table:
    return Table(
        "techniques",
        "Each technique alone, at the paper's settings",
        (
            FULL,
            *alone(),
            postdiff("all but mixed resolution", k=2, m=PAPER_M, group="alone"),
            postdiff("all four", beta=0.5, k=2, m=PAPER_M, group="alone"),
        ),
        3 * GRID_PAIRS,  # with fewer, what the deep cache costs was not told from chance
    )


def _cross_attention_at_the_switch() -> Table:
    later = 0.55  # one step of 20 after the switch: the first full-size step computes, the others reuse that
    return Table(
        "resize",
        "Cross-attention at the switch: resized, or computed once at full size",
        (
            FULL,
            postdiff("resized", beta=0.5, s=0.5, m=0.5, cutoff=False, group="resized"),
            postdiff("computed once", beta=0.5, s=0.5, m=later, cutoff=False, group="computed once"),
        ),
        compared=("resized", "computed once"),
    )


def _peers() -> Table:
    return Table(
        "peers",
        "What ComfyUI has for the same wish",
        (
            FULL,
            PRESET,
            *(peer("EasyCache", True, reuse_threshold=value) for value in (0.05, 0.1, 0.2, 0.4)),
            *(peer("LazyCache", True, reuse_threshold=value) for value in (0.05, 0.1, 0.2, 0.4)),
            *(peer("TomePatchModel", True, ratio=value) for value in (0.3, 0.6)),
            *(peer("PatchModelAddDownscale", end_percent=value) for value in (0.35, 0.7)),
            *(peer("CFGOverride", start_percent=value) for value in (0.25, 0.5, 0.75)),
            *map(fewer_steps, (18, 16, 14, 12, 10, 8)),
        ),
        compared=(LATER_CACHE, "EasyCache", "LazyCache", "PatchModelAddDownscale", "CFGOverride", FEWER_STEPS),
    )


def _samplers() -> Table:
    pairs = [(with_sampler(PRESET, name), with_sampler(FULL, name)) for name in OTHER_SAMPLERS]
    return Table(
        "samplers",
        "The shipped preset with other samplers",
        (FULL, PRESET, *(setting for pair in pairs for setting in pair)),
        notes=(
            "The rows' points are changes from the full run with euler; what PostDiff changes with each sampler stands "
            "in the second table.",
        ),
        against=((PRESET.name, FULL.name), *((ours.name, full.name) for ours, full in pairs)),
    )


def tables() -> dict[str, Table]:
    """Every table by name, in the order of their worth."""
    made = (
        *(_preset(), _frontier(), _after_mixed_resolution(), _switch(), _techniques()),
        *(_low_resolution_scale(), _low_resolution_steps(), _intervals(), _cache_modes()),
        *(_cross_attention_at_the_switch(), _samplers(), _peers()),
    )
    return {table.name: table for table in made}


HARMFUL = postdiff("beta 0.25, s 0.9, m 0.1", beta=0.25, s=0.9, m=0.1, group="harmful")
