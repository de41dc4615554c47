"""What users combine PostDiff with (rows), what PostDiff is asked for (columns), and what comes of it (cells).

A row is a companion and the sampler nodes of a graph, a column is techniques put on the model by the pack's nodes, and
`cell` runs both together. To draw graphs at random, take any row's `inputs()`, change them, put techniques on the model
and give them to `row.sample`.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

import companions
import pack_nodes
import sampler_nodes
import tiny_models
from companions import Companion, Inputs
from compare import TOLERANCE, inputs_with_prompts, largest_difference
from computed_in_full import InFull, Work
from postdiff.postdiff_core import full_size_retry, patch
from postdiff.postdiff_core.techniques import TECHNIQUE_INFO
from reference import Techniques
from sampler_nodes import Sample

STEPS = 8
MIXED, DEEP, CROSS, CUT = "mixed resolution", "deep cache", "cross-attention cache", "guidance cut-off"
TOGETHER = "all together"
COLUMNS = {
    MIXED: Techniques(low_res_scale=0.5, low_res_until=0.5),
    DEEP: Techniques(interval=2, depth=2),
    CROSS: Techniques(cross_attn_start=0.6),
    CUT: Techniques(cutoff_start=0.7),
    TOGETHER: Techniques(
        low_res_scale=0.5,
        low_res_until=0.5,
        switch="matched",  # the paper's is that of the column of mixed resolution alone
        interval=2,
        depth=2,
        cross_attn_start=0.6,
        cutoff_start=0.7,
    ),
}
TECHNIQUES = {
    DEEP: pack_nodes.with_deep_cache,
    CROSS: pack_nodes.with_cross_attn_cache,
    CUT: pack_nodes.with_cfg_cutoff,
    MIXED: pack_nodes.with_mixed_resolution,
}
REFUSALS = {
    DEEP: r"Deep cache cannot act on .* is not an image U-Net with skip connections",
    CROSS: r"The cross-attention cache cannot act on .* has no cross-attention layers"
    r"|A node gives layers of cross-attention more rows than the model call has",
    CUT: r"Guidance was not dropped: (\w+ evaluates 3 conditionings|a node takes the predictions of both prompts)",
    MIXED: r"All steps run at full size: (no noise is added|the latent is nested|the latent has 5 dimensions"
    r"|the sampler does only a part of its steps|something on the model failed)"
    r"|Mixed resolution cannot act on LTXAV: .* does not say which latent sizes it takes",
}
"""The reasons a technique may refuse for: no others are allowed."""

IDLE_NOTE = r"([\w -]+) does nothing here"
HARMLESS_NOTES = (
    r"Work is not counted|low_res_until asks for \d of \d steps|\d+ of \d+ steps run without"
    rf"|switch is matched, but the run ends before its noise is gone|{IDLE_NOTE}"
)
CHANGED_STEPS = {
    "mixed_resolution": ("stage", "low"),
    "deep_cache": ("deep", "reuse"),
    "cross_attn_cache": ("xattn", "reuse"),
    "cfg_cutoff": ("cfg", "off"),
}


@dataclass(frozen=True, eq=False)
class Row:
    """One thing that users combine PostDiff with.

    `companion` adds it to a KSampler's inputs, `sample` is the part of the graph that samples. `model`, `latent` (the
    arguments of `tiny_models.latent`; 16 x 16 and empty if there are none) and `given` make the inputs it is added to.
    Rows of one `line` share a line of the table.
    """

    name: str
    group: str
    companion: Companion = companions.nothing
    sample: Sample = sampler_nodes.ksampler
    model: Callable[..., ModelPatcher] = tiny_models.small_unet
    latent: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    line: str = ""
    refuses: frozenset[str] = frozenset()
    """Techniques that cannot act here."""
    idle: frozenset[str] = frozenset()
    """Techniques that have nothing to leave out here: the latent is the stock one."""
    same_as_ksampler: frozenset[str] = frozenset()
    """The columns where these nodes are another way to write down the KSampler's own run."""
    not_compared: Mapping[str, str] = field(default_factory=dict)
    """Why, by column, the latent of the run in full is no reference: such a cell runs, and is not called exact."""
    less_than_planned: frozenset[str] = frozenset()
    """The columns where the positive prompt, when alone, is no more repeated to the length of the negative one."""
    may_note: str = ""
    """A pattern of what its runs may note besides."""
    without_effect: Mapping[str, str] = field(default_factory=dict)
    """Why, by column, the companion does nothing there: there is no such cell."""
    computed_once_more: frozenset[str] = frozenset()
    """The columns, not compared, where what is kept does not fit later rows: it is computed once more than planned."""
    one_model: bool = False
    """The companion's patches remember the run together: both stages of the reference run have the same ones."""
    in_full: Companion | None = None
    """The companion in the reference run, where hooks on layers do not work beside the real one; no work is counted."""
    batch_index: list[int] | None = None
    new_prompts: bool = False
    """Prompts begin in the middle of the run: they are computed once where the plan, and the report's count, reuse."""
    tolerance: float = TOLERANCE
    """Rounding, as a fraction of the largest value: other numbers of rows in a call round otherwise."""
    slow: bool = False
    """Left to the full run."""

    def without(self) -> Inputs:
        """A KSampler's inputs without the companion."""
        model = self.model()
        inputs = inputs_with_prompts(model, scheduler="simple", steps=STEPS)
        return inputs | {"latent_image": tiny_models.latent(model, **self.latent)} if self.latent else inputs

    def inputs(self) -> Inputs:
        """The inputs with the companion."""
        return self.companion(self.without() | dict(self.given))


@dataclass(frozen=True)
class Cell:
    """What came of a row and a column."""

    row: Row
    column: str
    state: str  # "exact", "runs" or "refused"
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why techniques refused, by technique."""


class Runs:
    """Told of each run of a patched model. `expected` is a pattern of what they may note besides harmless things."""

    def __init__(self, expected: str = "") -> None:
        self.reports: list[dict[str, Any]] = []
        self._expected = f"{HARMLESS_NOTES}|{expected}" if expected else HARMLESS_NOTES

    def on_plan(self, plan: Any, notes: Sequence[str]) -> None: ...
    def on_step(self, index: int) -> None: ...
    def on_report(self, report: dict[str, Any]) -> None:
        self.reports.append(report)

    @property
    def notes(self) -> list[list[str]]:
        """What each run says to have left undone."""
        return [[note for note in report["notes"] if not re.match(self._expected, note)] for report in self.reports]


@dataclass(frozen=True)
class Sampled:
    """What one queue of a graph gave and did."""

    latents: list[torch.Tensor]
    work: list[int]
    runs: Runs
    refusals: dict[str, str]


def techniques_of(column: str) -> list[str]:
    return list(TECHNIQUES) if column == TOGETHER else [column]


def patched(model: ModelPatcher, column: str) -> tuple[ModelPatcher, dict[str, str]]:
    """The model with the techniques of a column, and the reasons of those that refuse it."""
    refusals = {}
    for name in techniques_of(column):
        try:
            model = TECHNIQUES[name](model, COLUMNS[column])
        except ValueError as error:
            refusals[name] = str(error)
    return model, refusals


def sampled(
    sample: Sample, inputs: Inputs, column: str | None = None, *, counted: bool = True, may_note: str = ""
) -> Sampled:
    """A graph as it is, or with the techniques of a column; `may_note` as that of a row."""
    runs, refusals = Runs(may_note), {}
    if column is not None:
        model, refusals = patched(inputs["model"], column)
        inputs = inputs | {"model": model}
        carried = patch.carried_by(model)
        carried.observers = (*carried.observers, runs)
    work = Work(inputs["model"].model.diffusion_model)

    def begin_anew(*given: Any, begin: Callable[..., None] = full_size_retry.begin_anew) -> None:
        work.calls.clear()  # of the attempt that has failed
        begin(*given)

    with (
        work.counted() if counted else contextlib.nullcontext(),
        mock.patch.object(full_size_retry, "begin_anew", begin_anew),
    ):
        latents = sample(inputs)
    for technique, pattern in REFUSALS.items():
        said = [note for notes in runs.notes for note in notes if re.match(pattern, note)]
        refusals |= {technique: said[0]} if said else {}
    return Sampled(latents, work.in_order(), runs, refusals)


@functools.cache
def stock(row: Row) -> Sampled:
    """The row without PostDiff."""
    return sampled(row.sample, row.inputs(), counted=row.in_full is None)


@functools.cache
def alone(model: Callable[..., ModelPatcher], latent: tuple, column: str) -> Sampled:
    """A KSampler with PostDiff and nothing else."""
    row = Row("alone", "", model=model, latent=dict(latent))
    return sampled(sampler_nodes.ksampler, row.inputs(), column)


def in_full(row: Row, column: str, reports: Sequence[dict[str, Any]]) -> Sampled:
    """The row with everything computed, and what the techniques reuse put in its place."""

    def build() -> Inputs:
        return (row.in_full or row.companion)(row.without() | dict(row.given))

    inputs = build()
    network = inputs["model"].model.diffusion_model
    fresh_model = None if row.one_model else lambda: build()["model"]
    reference = InFull(network, COLUMNS[column], reports, row.batch_index, fresh_model)
    with reference.substituting() as work:
        latents = row.sample(inputs)
    return Sampled(latents, work.in_order(), Runs(), {})


def cell(row: Row, column: str) -> Cell:
    """Run a cell; AssertionError says what is wrong about it."""
    before = stock(row)
    together = sampled(row.sample, row.inputs(), column, counted=row.in_full is None, may_note=row.may_note)
    asked = set(techniques_of(column))
    refused = row.refuses & asked
    assert together.refusals.keys() == refused, f"refused: {together.refusals}"
    assert set().union(*together.runs.notes) <= set(together.refusals.values()), f"noted: {together.runs.notes}"
    for report in together.runs.reports:
        _check_idle_notes(report)
    for technique, reason in together.refusals.items():
        assert re.match(REFUSALS[technique], reason), f"refused for another reason than allowed: {reason}"
    assert all(torch.isfinite(latent).all() for latent in together.latents), "the latent is not finite"
    acts_in_some_runs = bool(refused) and not all(together.runs.notes)
    if asked <= refused | _idle(row, column, together, before) and not acts_in_some_runs:
        assert difference(together, before) == 0, "nothing acts here, but the latent is another"
        assert together.work == before.work, "nothing acts here, but other work is done"
        return Cell(row, column, "refused" if refused else "exact", together.refusals)
    assert _differs(together, before), "without PostDiff the latent is the same"
    _check_without_companion(row, column, together)
    expected = in_full(row, column, together.runs.reports)
    if column in row.not_compared:
        for done, planned in zip(together.work, expected.work, strict=True):
            may_be = row.name in PASSED_OVER or column in row.computed_once_more
            once_more = may_be and planned < done <= max(before.work)
            assert done == planned or 0 in (done, planned) or once_more, "the work executed is not the work planned"
        return Cell(row, column, "runs", together.refusals)
    if column in row.less_than_planned:
        assert all(map(int.__le__, together.work, expected.work)), "more work is executed than planned"
    elif row.in_full is None:
        assert together.work == expected.work, "the work executed is not the work planned"
        if not row.new_prompts and row.group != SAMPLERS:  # samplers may evaluate at other noise levels than the plan's
            _check_report(together, before)
    apart = difference(together, expected)
    assert apart < row.tolerance, f"the latent is {apart:.1e} away from that of the run in full"
    return Cell(row, column, "exact", together.refusals)


def _check_idle_notes(report: dict[str, Any]) -> None:
    field_of = {info.title: name for name, info in TECHNIQUE_INFO.items()}
    said = {field_of[match[1]] for note in report["notes"] if (match := re.match(IDLE_NOTE, note))}
    idle = {name for name, (what, state) in CHANGED_STEPS.items() if all(s[what] != state for s in report["plan"])}
    idle |= {"cfg_cutoff"} if all(step["cfg"] == "off" for step in report["plan"]) else set()
    assert said <= idle, f"said to act in no step: {said}, but only {idle} do not"


def _idle(row: Row, column: str, together: Sampled, before: Sampled) -> frozenset[str]:
    """The techniques that have nothing to leave out here; a sampler may never come to the noise levels of the last
    steps, by its schedule or because it takes levels of its own."""
    if row.group != SAMPLERS:
        return row.idle
    comes_to_them = _leave_out_something(together)
    if row.line in OWN_NOISE_LEVELS:
        comes_to_them = in_full(row, column, together.runs.reports).work != before.work
    return row.idle if comes_to_them else frozenset(techniques_of(column))


def _leave_out_something(together: Sampled) -> bool:
    """Some schedulers have no step after a late fraction."""
    stock_step = {"stage": "full", "cfg": "on"}
    return any(
        {**step, **stock_step} != step or "reuse" in step.values()
        for report in together.runs.reports
        for step in report["plan"]
    )


def difference(one: Sampled, other: Sampled) -> float:
    assert len(one.latents) == len(other.latents)
    return max(map(largest_difference, one.latents, other.latents))


def _differs(one: Sampled, other: Sampled) -> bool:
    """By more than rounding, or after other work: where the first steps outweigh all others (zsnr without
    v-prediction), the last ones change little."""
    apart = difference(one, other)
    return apart > TOLERANCE or (apart > 0 and one.work != other.work)


def _check_without_companion(row: Row, column: str, together: Sampled) -> None:
    if row.companion is companions.nothing and row.sample is sampler_nodes.ksampler:
        return  # a row of a sampler, a model or a size: there is nothing to remove
    plain = alone(row.model, tuple(row.latent.items()), column)
    if [latent.shape for latent in together.latents] != [latent.shape for latent in plain.latents]:
        return
    if column in row.same_as_ksampler:
        assert difference(together, plain) < TOLERANCE, "the nodes give another latent than the KSampler"
    else:
        assert _differs(together, plain), "without the companion the latent is the same"


def _check_report(together: Sampled, before: Sampled) -> None:
    """Where a stock run does what the report says it would, the run itself did what the report says."""
    totals = together.runs.reports[0]["totals"]
    if len(together.runs.reports) == 1 and totals["macs_stock"] == sum(before.work):
        assert totals["macs"] == sum(together.work), "the report counts other work than was done"


# Rows

UNET, SD15 = tiny_models.small_unet, tiny_models.sd15
WITHOUT_SKIP_CONNECTIONS = frozenset({DEEP})
WITHOUT_CROSS_ATTENTION = frozenset({DEEP, CROSS})
VIDEO = frozenset({DEEP, CROSS, MIXED})
NO_GUIDANCE = frozenset({CUT})


SAMPLERS = "Samplers, each with every scheduler"
OWN_NOISE_LEVELS = ("dpm_fast", "dpm_adaptive")
PASSED_OVER = {
    f"dpm_fast, {scheduler}": {
        TOGETHER: "dpm_fast takes noise levels of its own. With some schedulers it passes over the step whose "
        "cross-attention is kept: that is then computed once more, where the reference reuses an older one."
    }
    for scheduler in ("exponential", "ddim_uniform", "beta")
}
_NODES = "Sampler nodes and guiders"
_PICTURES = "Pictures and masks"
_PROMPTS = "Prompts"
_CONTROLS = "Control and style"
_PATCHES = "Model patches"
_SAMPLING = "Model sampling"
_MODELS = "Models"
_GRAPHS = "Graphs, sizes and batches"
SAG_GOES_ON = "SAG blurs by the negative prompt's attention in the middle block; while that does not run, by the last."
TWO_MODELS = "The reference does not see into the model of the negative prompt."
EASY_CACHE_STOPS = "EasyCache decides by the negative prompt's row; after the cut-off it skips no more calls."

_PICTURE = {"seed": 16}  # a latent with a picture in it
_WIDE = {"height": 16, "width": 32}


@functools.cache
def one_unet() -> ModelPatcher:
    """The same model in every row of the samplers: building it costs what a run costs."""
    return tiny_models.small_unet()


_ROWS = [
    *(
        Row(
            f"{sampler}, {scheduler}",
            SAMPLERS,
            model=one_unet,
            given={"sampler_name": sampler, "scheduler": scheduler},
            line=sampler,
            not_compared=PASSED_OVER.get(f"{sampler}, {scheduler}", {}),
        )
        for sampler in comfy.samplers.SAMPLER_NAMES
        for scheduler in comfy.samplers.SCHEDULER_NAMES
    ),
    Row("KSampler, cfg 1", _NODES, given={"cfg": 1.0}, idle=NO_GUIDANCE),
    Row("KSamplerAdvanced, a slice", _NODES, sample=sampler_nodes.last_steps, latent=_PICTURE),
    Row(
        "KSamplerAdvanced twice, leftover noise",
        _NODES,
        sample=sampler_nodes.two_slices,
        refuses=frozenset({MIXED}),
        same_as_ksampler=frozenset({DEEP, CROSS, CUT}),
    ),
    Row("KSamplerAdvanced, add_noise off", _NODES, sample=sampler_nodes.noisy_latent, refuses=frozenset({MIXED})),
    Row("SamplerCustom", _NODES, sample=sampler_nodes.sampler_custom, same_as_ksampler=frozenset(COLUMNS)),
    Row(
        "SamplerCustomAdvanced, CFGGuider",
        _NODES,
        sample=sampler_nodes.with_cfg_guider,
        same_as_ksampler=frozenset(COLUMNS),
    ),
    Row("SamplerCustomAdvanced, BasicGuider", _NODES, sample=sampler_nodes.with_basic_guider, idle=NO_GUIDANCE),
    Row("DualCFGGuider", _NODES, sample=sampler_nodes.with_dual_cfg_guider, refuses=NO_GUIDANCE),
    Row("DualCFGGuider, nested", _NODES, sample=sampler_nodes.with_nested_dual_cfg_guider, refuses=NO_GUIDANCE),
    Row(
        "DualModelGuider",
        _NODES,
        sample=sampler_nodes.with_dual_model_guider,
        not_compared=dict.fromkeys((DEEP, CROSS, TOGETHER), TWO_MODELS),
    ),
    Row("PerpNegGuider", _NODES, sample=sampler_nodes.with_perp_neg_guider, refuses=NO_GUIDANCE),
    Row("img2img, denoise 0.7", _PICTURES, companions.img2img),
    Row("inpainting, mask", _PICTURES, companions.inpaint),
    Row("inpainting, soft mask", _PICTURES, companions.inpaint_softly),
    Row("DifferentialDiffusion", _PICTURES, companions.differential_diffusion),
    Row(
        "inpainting checkpoint",
        _PICTURES,
        companions.inpainting_conditioning,
        model=functools.partial(tiny_models.small_unet, in_channels=9),
    ),
    Row("ConditioningCombine", _PROMPTS, companions.combined),
    Row("ConditioningAverage", _PROMPTS, companions.averaged),
    Row("ConditioningZeroOut", _PROMPTS, companions.zeroed),
    Row("ConditioningSetArea", _PROMPTS, companions.area),
    Row("ConditioningSetAreaPercentage", _PROMPTS, companions.percentage_area),
    Row("ConditioningSetMask", _PROMPTS, companions.masked_prompt),
    Row("ConditioningSetMask, mask bounds", _PROMPTS, companions.masked_prompt_in_bounds),
    Row("ConditioningSetTimestepRange", _PROMPTS, companions.prompt_for_a_while, new_prompts=True),
    Row(
        "prompts of 7 and 14 tokens",
        _PROMPTS,
        companions.longer_negative_prompt,
        less_than_planned=frozenset({CUT}),
    ),
    Row("prompts of 7 and 5 tokens", _PROMPTS, companions.unequal_negative_prompt),
    Row("ControlNet", _CONTROLS, companions.controlnet),
    Row("ControlNet, two chained", _CONTROLS, companions.two_controlnets),
    Row("ControlNet, start and end percent", _CONTROLS, companions.controlnet_for_a_while),
    Row("ControlNet, old node (uncond too)", _CONTROLS, companions.controlnet_of_the_positive_prompt),
    Row("T2I-Adapter", _CONTROLS, companions.t2i_adapter, model=SD15),
    Row("GLIGEN", _CONTROLS, companions.gligen),
    Row("unCLIP", _CONTROLS, companions.unclip, model=tiny_models.small_unclip),
    Row("LoRA", _CONTROLS, companions.lora),
    Row("LoRA hooks", _CONTROLS, companions.lora_hooks),
    Row("LoRA hooks with keyframes", _CONTROLS, companions.lora_hooks_with_keyframes),
    Row("IPAdapter (attn2 replaced)", _CONTROLS, companions.ip_adapter),
    Row("IPAdapter and Deep Shrink", _CONTROLS, companions.both(companions.ip_adapter, companions.deep_shrink)),
    Row("FreeU", _PATCHES, companions.freeu),
    Row("FreeU_V2", _PATCHES, companions.freeu_v2),
    Row("PerturbedAttentionGuidance", _PATCHES, companions.pag),
    Row(
        "SelfAttentionGuidance",
        _PATCHES,
        companions.sag,
        not_compared=dict.fromkeys((DEEP, CUT, TOGETHER), SAG_GOES_ON),
    ),
    Row("SkipLayerGuidanceDiT", _PATCHES, companions.slg, model=tiny_models.auraflow, refuses=WITHOUT_CROSS_ATTENTION),
    Row(
        "SkipLayerGuidanceDiTSimple",
        _PATCHES,
        companions.slg_simple,
        model=tiny_models.auraflow,
        refuses=WITHOUT_CROSS_ATTENTION,
    ),
    Row("HyperTile", _PATCHES, companions.hypertile),
    Row("TomePatchModel", _PATCHES, companions.tome),
    Row("PatchModelAddDownscale (Deep Shrink)", _PATCHES, companions.deep_shrink),
    Row(
        "attn2 input patch and Deep Shrink",
        _PATCHES,
        companions.both(companions.attn2_input_patch, companions.deep_shrink),
    ),
    Row("tiled diffusion (model_function_wrapper)", _PATCHES, companions.tiled_diffusion),
    Row("RescaleCFG", _PATCHES, companions.rescale_cfg),
    Row("APG", _PATCHES, companions.apg),
    Row("CFGZeroStar", _PATCHES, companions.cfg_zero_star),
    Row("Mahiro", _PATCHES, companions.mahiro),
    Row("CFGOverride", _PATCHES, companions.cfg_override),
    Row("EasyCache, early steps", _PATCHES, companions.easy_cache),
    Row(
        "EasyCache, to the end",
        _PATCHES,
        companions.late_easy_cache,
        idle=frozenset({CROSS}),
        not_compared=dict.fromkeys((CUT, TOGETHER), EASY_CACHE_STOPS),
    ),
    Row("LazyCache, early steps", _PATCHES, companions.lazy_cache),
    Row(
        "TorchCompileModel, backend eager",
        _PATCHES,
        companions.compiled,
        sampler_nodes.freshly_compiled,
        in_full=companions.nothing,
        same_as_ksampler=frozenset(COLUMNS),
        slow=True,
    ),
    Row("ModelMergeSimple", _PATCHES, companions.merged(UNET)),
    Row("ModelMergeBlocks", _PATCHES, companions.merged_by_blocks(UNET)),
    Row("ModelSamplingDiscrete, zsnr", _SAMPLING, companions.model_sampling("eps", zsnr=True)),
    Row("ModelSamplingDiscrete, v_prediction", _SAMPLING, companions.model_sampling("v_prediction")),
    Row("ModelSamplingDiscrete, v_prediction, zsnr", _SAMPLING, companions.model_sampling("v_prediction", zsnr=True)),
    Row("ModelSamplingDiscrete, lcm", _SAMPLING, companions.model_sampling("lcm"), given={"sampler_name": "lcm"}),
    Row("ModelSamplingContinuousEDM", _SAMPLING, companions.edm),
    Row("SD1.5", _MODELS, model=SD15),
    Row("SD2", _MODELS, model=tiny_models.sd2),
    Row("SDXL", _MODELS, model=tiny_models.sdxl),
    Row("LCM", _MODELS, model=tiny_models.lcm, given={"sampler_name": "lcm", "cfg": 1.0}, idle=NO_GUIDANCE),
    Row("PixArt-alpha", _MODELS, model=tiny_models.pixart_alpha, refuses=WITHOUT_SKIP_CONNECTIONS),
    Row("PixArt-sigma", _MODELS, model=tiny_models.pixart_sigma, refuses=WITHOUT_SKIP_CONNECTIONS),
    Row("WAN 2.1 (5-D latent)", _MODELS, model=tiny_models.wan, refuses=VIDEO),
    Row("LTX-2 (nested latent)", _MODELS, model=tiny_models.ltxav, refuses=VIDEO),
    Row(
        "SVD",
        _MODELS,
        model=tiny_models.svd,
        latent={"batch": 3, "height": 8, "width": 8},
        refuses=WITHOUT_SKIP_CONNECTIONS,
    ),
    Row("fp16 weights", _MODELS, model=functools.partial(UNET, weights=torch.float16), tolerance=5e-3),
    Row("bf16 weights", _MODELS, model=functools.partial(UNET, weights=torch.bfloat16), tolerance=3e-2),
    Row("fp8 weights", _MODELS, model=functools.partial(UNET, weights=torch.float8_e4m3fn, compute=torch.float32)),
    Row("two samplers of different sizes", _GRAPHS, sample=sampler_nodes.two_sizes),
    Row("tiles, a run each", _GRAPHS, sample=sampler_nodes.tiles, latent=_PICTURE),
    Row("a batch of two", _GRAPHS, latent={"batch": 2}),
    Row(
        "batch_index",
        _GRAPHS,
        companions.part_of_a_batch,
        sampler_nodes.postdiff_ksampler,
        latent={"batch": 2},
        batch_index=[3, 4],
    ),
    Row("wide latent, 16 x 24", _GRAPHS, latent={"height": 16, "width": 24}),
    Row("odd latent, 15 x 17", _GRAPHS, latent={"height": 15, "width": 17}),
    Row(
        "prompts evaluated one by one (little memory)",
        _GRAPHS,
        sample=sampler_nodes.in_little_memory,
        same_as_ksampler=frozenset(COLUMNS),
    ),
    Row("ContextWindowsManual", _GRAPHS, companions.context_windows, latent=_WIDE),
    Row("ContextWindowsManual, a prompt for each", _GRAPHS, companions.a_prompt_for_each_window, latent=_WIDE),
]
ROWS = {row.name: row for row in _ROWS}
