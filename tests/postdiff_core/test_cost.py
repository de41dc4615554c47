"""The counts of the paper's Table 2, at full size, and a second opinion by torch's own counter on real runs."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import comfy.ldm.modules.attention
import comfy.ldm.pixart.blocks
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import full_size_models
import tiny_models
from postdiff.postdiff_core import cost, presets, schedule
from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings

TERA = 1e12
TOKENS = 77


built = functools.cache(lambda build: build())


@dataclass(frozen=True)
class Case:
    """A model of Table 2 with the paper's size, steps and techniques (section 3.1)."""

    build: Callable
    steps: int
    size: int  # side of the square latent
    low_size: int
    mix: MixedResolution
    tokens: int = TOKENS
    guided_rows: int = 2
    cache: dict = field(default_factory=dict)

    def work(self, *, mix: bool = False, depth: int | None = None, **techniques) -> cost.PlanWork:
        settings = Settings(
            mixed_resolution=self.mix if mix else None,
            deep_cache=DeepCache(interval=2, depth=depth) if depth else None,
            **techniques,
        )
        reached = functools.partial(schedule.step_at_uniform_timesteps, self.steps)
        plan = schedule.plan(settings, self.steps, reached)
        return cost.plan_work(
            built(self.build),
            plan,
            (self.size, self.size),
            (self.low_size, self.low_size),
            tokens=self.tokens,
            rows=cost.planned_rows(plan, self.guided_rows),
            depth=depth,
        )


AT_THREE_QUARTERS = {"cross_attn_cache": CrossAttnCache(0.75), "cfg_cutoff": CFGCutoff(0.75)}
SD15 = Case(full_size_models.sd15, steps=20, size=96, low_size=48, mix=MixedResolution(0.5, 0.5))
LCM = Case(full_size_models.sd15, steps=8, size=96, low_size=48, mix=MixedResolution(0.5, 0.5), guided_rows=1)
SDXL = Case(full_size_models.sdxl, steps=20, size=128, low_size=96, mix=MixedResolution(0.75, 0.2))
PIXART = Case(
    full_size_models.pixart_alpha, steps=20, size=128, low_size=96, mix=MixedResolution(0.75, 0.5), tokens=120
)

LCM_CACHE = {"cross_attn_cache": CrossAttnCache(0.5)}

# Counted on ComfyUI's modules: case, techniques, 10^12 multiply-accumulates without and with attention products.
TABLE_2 = {
    "SD1.5": (SD15, {}, 30.400, 42.962),
    "SD1.5 + Mix": (SD15, {"mix": True}, 19.022, 25.711),
    "SD1.5 + DeepCache": (SD15, {"depth": 2}, 17.773, 27.343),
    "SD1.5 + Mix + Cache": (SD15, {"mix": True, "depth": 2, **AT_THREE_QUARTERS}, 9.137, 13.097),
    "LCM": (LCM, {}, 6.080, 8.592),
    "LCM + Mix": (LCM, {"mix": True}, 3.804, 5.142),
    "LCM + Mix + Cache": (LCM, {"mix": True, **LCM_CACHE}, 3.683, 5.005),
    "SDXL": (SDXL, {}, 119.546, 135.225),
    "SDXL + Mix": (SDXL, {"mix": True}, 109.178, 122.745),
    "SDXL + Mix + Cache, depth 2": (SDXL, {"mix": True, "depth": 2, **AT_THREE_QUARTERS}, 50.040, 56.007),
    "SDXL + Mix + Cache, depth 3": (SDXL, {"mix": True, "depth": 3, **AT_THREE_QUARTERS}, 51.498, 57.465),
    "SDXL + Mix + Cache, depth 4": (SDXL, {"mix": True, "depth": 4, **AT_THREE_QUARTERS}, 54.049, 60.638),
    "PixArt": (PIXART, {}, 85.629, 130.190),
    "PixArt + Mix": (PIXART, {"mix": True}, 66.982, 96.469),
    "PixArt + Mix + Cache": (PIXART, {"mix": True, **AT_THREE_QUARTERS}, 54.712, 78.470),
}

# Printed in the paper, without attention products, where its accounting is understood: its SD1.5 row "+ Mix + Cache"
# leaves out what the cut-off and the cross-attention cache save.
PAPER = {
    "SD1.5": (SD15, {}, 30.420),
    "SD1.5 + Mix": (SD15, {"mix": True}, 19.035),
    "SD1.5 + DeepCache": (SD15, {"depth": 2}, 17.787),
    "SD1.5 + Mix + Cache": (SD15, {"mix": True, "depth": 2}, 11.129),
    "LCM": (LCM, {}, 6.084),
    "LCM + Mix": (LCM, {"mix": True}, 3.807),
    "LCM + Mix + Cache": (LCM, {"mix": True, **LCM_CACHE}, 3.686),
    "SDXL": (SDXL, {}, 119.641),
    "SDXL + Mix": (SDXL, {"mix": True}, 109.264),
    "PixArt": (PIXART, {}, 85.640),
    "PixArt + Mix": (PIXART, {"mix": True}, 66.990),
    "PixArt + Mix + Cache": (PIXART, {"mix": True, **AT_THREE_QUARTERS}, 54.718),
}


@pytest.mark.parametrize(("case", "techniques", "linear", "total"), TABLE_2.values(), ids=TABLE_2)
def test_the_counts_of_table_2_are_reproduced_in_both_accountings(case, techniques, linear, total):
    work = case.work(**techniques).total
    assert work.linear / TERA == pytest.approx(linear, rel=1e-3)
    assert work.total / TERA == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(("case", "techniques", "printed"), PAPER.values(), ids=PAPER)
def test_the_papers_own_figures_are_met(case, techniques, printed):
    assert case.work(**techniques).total.linear / TERA == pytest.approx(printed, rel=5e-3)


@pytest.mark.parametrize(
    ("case", "techniques", "speedup"),
    [
        (SD15, {"mix": True, "depth": 2, **AT_THREE_QUARTERS}, 3.28),
        (LCM, {"mix": True, **LCM_CACHE}, 1.72),
        (SDXL, {"mix": True, "depth": 2, **AT_THREE_QUARTERS}, 2.41),
        (PIXART, {"mix": True, **AT_THREE_QUARTERS}, 1.66),
    ],
    ids=["SD1.5", "LCM", "SDXL", "PixArt"],
)
def test_the_ideal_speedup_is_stock_work_over_the_plans_work(case, techniques, speedup):
    work = case.work(**techniques)
    assert work.speedup == pytest.approx(speedup, abs=0.005)
    assert work.work_saved == pytest.approx(1 - 1 / work.speedup)
    assert work.stock == case.work().total
    assert len(work.steps) == case.steps


@pytest.mark.parametrize(
    ("case", "named", "by_auto"),
    [(replace(SD15, size=64, low_size=32), 3.30, 2.53), (replace(SDXL, size=64, low_size=48), 2.40, 2.17)],
    ids=["SD1.5", "SDXL"],
)
def test_at_512_pixels_auto_saves_less_than_the_preset_by_name(case, named, by_auto):
    """It begins at three quarters of the trained side: SD1.5 at 384 pixels, SDXL at the full 512."""
    family = {SD15.build: "sd15", SDXL.build: "sdxl"}[case.build]
    beta = presets.smallest_beta(presets.TRAINED_SIDES[family], (case.size, case.size))
    everything = {"mix": True, "depth": 2, **AT_THREE_QUARTERS}
    from_auto = replace(case, low_size=round(beta * case.size)).work(**everything | {"mix": beta < 1})
    assert case.work(**everything).speedup == pytest.approx(named, abs=0.005)
    assert from_auto.speedup == pytest.approx(by_auto, abs=0.005)


@pytest.mark.parametrize(
    ("case", "side", "depth", "cross_attn", "share"),
    [
        (SD15, 48, None, True, 0.197),
        (SD15, 96, 1, True, 0.094),
        (SD15, 96, 2, True, 0.273),
        (SD15, 96, 3, True, 0.460),
        (SD15, 96, 4, True, 0.539),
        (SD15, 96, None, False, 0.965),
        (SDXL, 128, 1, True, 0.015),
        (SDXL, 128, 2, True, 0.038),
        (SDXL, 128, 3, True, 0.066),
        (SDXL, 128, 4, True, 0.129),
        (SDXL, 128, None, False, 0.918),
        (PIXART, 128, None, False, 0.894),
    ],
)
def test_a_step_of_each_kind_costs_the_known_share_of_a_full_one(case, side, depth, cross_attn, share):
    model = built(case.build)
    full = cost.step_work(model, case.size, case.size, 2, case.tokens)
    step = cost.step_work(model, side, side, 2, case.tokens, depth=depth, cross_attn=cross_attn)
    assert step.total / full.total == pytest.approx(
        share, abs=0.0055 if depth is None and side == case.size else 0.0006
    )


def executed(model, height: int, width: int, rows: int, tokens: int) -> dict[str, cost.Work]:
    """What torch's own counter sees in a real evaluation, for each module that ran, by path ("" is the whole model)."""
    diffusion_model = model.model.diffusion_model
    inputs = {
        "x": torch.randn(rows, diffusion_model.in_channels, height, width),
        "timesteps": torch.ones(rows),
        "context": tiny_models.conditioning(model, tokens=tokens)[0][0].repeat(rows, 1, 1),
    }
    if model.model.adm_channels:
        inputs["y"] = torch.randn(rows, model.model.adm_channels)
    # The counter does not know the fused attention of a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        diffusion_model(**inputs)
    total = {
        path.partition(".")[2]: sum(flops.values()) // 2
        for path, flops in counter.get_flop_counts().items()
        if path != "Global"
    }
    layers = {
        path: total[path]
        for path, module in diffusion_model.named_modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and path in total
    }
    linear = {path: sum(work for layer, work in layers.items() if contains(path, layer)) for path in total}
    return {path: cost.Work(linear[path], total[path] - linear[path]) for path in total}


def contains(path: str, inner: str) -> bool:
    return path in ("", inner) or inner.startswith(f"{path}.")


def work_outside(work: dict[str, cost.Work], left_out: Callable[[str], bool]) -> cost.Work:
    """The whole model's work less that of the modules that are left out."""
    skipped = [path for path in work if left_out(path)]
    outermost = [path for path in skipped if not any(contains(other, path) for other in skipped if other != path)]
    return work[""] + cost.add(work[path] for path in outermost) * -1


def is_cross_attention(path: str) -> bool:
    return path.endswith((".attn2", ".cross_attn"))


def is_below(path: str, depth: int, blocks: int) -> bool:
    """Whether a module belongs to the deep branch that a reuse step leaves out."""
    deep = {
        "input_blocks": range(depth, blocks),
        "middle_block": range(3),
        "output_blocks": range(blocks - depth),
    }
    group, _, rest = path.partition(".")
    return group in deep and bool(rest) and int(rest.split(".")[0]) in deep[group]


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (tiny_models.sd15, (16, 16)),
        (tiny_models.sd15, (15, 17)),
        (tiny_models.sd15_inpainting, (16, 24)),
        (tiny_models.sd2, (16, 16)),
        (tiny_models.sdxl, (16, 16)),
        (tiny_models.pixart_alpha, (68, 68)),
        (tiny_models.pixart_sigma, (68, 80)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_full_step_costs_what_torch_counts_in_a_real_evaluation(build, size):
    model = build()
    step_work = functools.partial(cost.step_work, model.model, *size, rows=3, tokens=7)
    work = executed(model, *size, rows=3, tokens=7)
    assert step_work() == work_outside(work, lambda path: False)
    assert step_work(cross_attn=False) == work_outside(work, is_cross_attention)


@pytest.mark.parametrize("build", tiny_models.UNETS.values(), ids=tiny_models.UNETS)
def test_a_reuse_step_costs_what_torch_counts_outside_the_deep_branch(build):
    model = build()
    blocks = len(model.model.diffusion_model.output_blocks)
    work = executed(model, 16, 16, rows=2, tokens=7)
    for depth in range(1, blocks):
        is_deep = functools.partial(is_below, depth=depth, blocks=blocks)
        step_work = functools.partial(cost.step_work, model.model, 16, 16, rows=2, tokens=7, depth=depth)
        assert step_work() == work_outside(work, is_deep)
        assert step_work(cross_attn=False) == work_outside(
            work, lambda path, is_deep=is_deep: is_deep(path) or is_cross_attention(path)
        )


def test_each_step_of_a_plan_is_priced_as_what_it_does():
    model = full_size_models.sd15()
    settings = Settings(MixedResolution(0.5, 0.5), DeepCache(2, 3), CrossAttnCache(0.75), CFGCutoff(0.625))
    plan = schedule.plan(settings, 8, functools.partial(schedule.step_at_uniform_timesteps, 8))
    work = cost.plan_work(model, plan, (64, 96), (32, 48), tokens=TOKENS, batch=2, depth=3)
    price = functools.partial(cost.step_work, model, tokens=TOKENS)
    assert work.steps == (
        *(price(32, 48, 4), price(32, 48, 4, depth=3)) * 2,
        price(64, 96, 4),
        price(64, 96, 2, depth=3),
        price(64, 96, 2, cross_attn=False),
        price(64, 96, 2, depth=3, cross_attn=False),
    )
    assert work.stock == price(64, 96, 4) * 8


def test_cross_attention_reused_from_the_first_step_is_computed_there_once():
    model = full_size_models.sd15()
    plan = schedule.plan(Settings(cross_attn_cache=CrossAttnCache(0.0)), 4, lambda _fraction: 0)
    work = cost.plan_work(model, plan, (64, 64), tokens=TOKENS)
    price = functools.partial(cost.step_work, model, 64, 64, 2, TOKENS)
    assert work.steps == (price(), *[price(cross_attn=False)] * 3)


@pytest.fixture
def constructions(monkeypatch):
    """Counts the U-Nets built while a test runs."""
    built = []
    construct = UNetModel.__init__

    def counting(self, *arguments, **options):
        built.append(self)
        construct(self, *arguments, **options)

    monkeypatch.setattr(UNetModel, "__init__", counting)
    return built


@pytest.mark.parametrize("build", [full_size_models.sd15, full_size_models.sdxl, full_size_models.pixart_alpha])
def test_work_is_counted_in_less_than_a_second_of_the_processors_time(build):
    """The node waits for it before the first run."""
    model = built(build)
    began = time.process_time()
    cost.step_work(model, 96, 104, rows=2, tokens=77)
    assert time.process_time() - began < 1.0


def test_a_plan_is_traced_once_a_size_and_then_remembered_for_every_model_of_its_architecture(constructions):
    first, second = full_size_models.sd15(), full_size_models.sd15()
    second.model_config.unet_config["dtype"] = torch.float8_e4m3fn
    constructions.clear()
    settings = Settings(MixedResolution(0.5, 0.5), DeepCache(2, 2), CrossAttnCache(0.75), CFGCutoff(0.75))
    plan = schedule.plan(settings, 20, functools.partial(schedule.step_at_uniform_timesteps, 20))
    counts = [
        cost.plan_work(model, plan, (56, 72), (28, 36), tokens=76, depth=depth)
        for model, depth in ((first, 2), (first, 3), (second, 2))
    ]
    assert len(constructions) == 2
    assert counts[0] == counts[2] != counts[1]


def test_prompts_of_any_length_are_priced_by_one_trace(constructions):
    model = tiny_models.sd15()
    constructions.clear()
    for tokens in (1, 12, 77):
        priced = cost.step_work(model.model, 24, 40, rows=1, tokens=tokens)
        assert priced == work_outside(executed(model, 24, 40, rows=1, tokens=tokens), lambda path: False)
    assert len(constructions) == 1


@pytest.mark.parametrize("build", tiny_models.MODELS.values(), ids=tiny_models.MODELS)
def test_counting_leaves_the_model_and_the_random_generator_alone(build):
    model = build().model
    weights = {name: (weight, weight.clone()) for name, weight in model.diffusion_model.state_dict().items()}
    modules = {path: dict(vars(module)) for path, module in model.diffusion_model.named_modules()}
    generator = torch.get_rng_state()
    cost.step_work(model, 70, 72, rows=1, tokens=5)
    assert torch.equal(torch.get_rng_state(), generator)
    assert {path: dict(vars(module)) for path, module in model.diffusion_model.named_modules()} == modules
    for name, weight in model.diffusion_model.state_dict().items():
        before, values = weights[name]
        assert weight.data_ptr() == before.data_ptr() and torch.equal(weight, values)


@pytest.mark.parametrize("build", [tiny_models.sd15, tiny_models.pixart_sigma])
def test_the_attention_that_the_host_chose_for_the_machine_does_not_matter(build, monkeypatch):
    def unusable(*_arguments, **_options):
        raise RuntimeError("this attention needs a GPU")

    for module in (comfy.ldm.modules.attention, comfy.ldm.pixart.blocks):
        monkeypatch.setattr(module, "optimized_attention", unusable)
    work = cost.step_work(build().model, 74, 74, rows=1, tokens=5)
    assert work.attention > 0


def test_tensors_that_a_newer_host_hands_to_its_attention_in_containers_are_counted(monkeypatch):
    """Its attention functions are wrapped to open them (ComfyUI after 0.33)."""
    expected = cost.step_work(tiny_models.sd15().model, 24, 40, rows=1, tokens=5)

    def contained(self, x, context=None, value=None, mask=None, transformer_options=None):
        context = x if context is None else context
        q, k, v = ([layer(given)] for layer, given in ((self.to_q, x), (self.to_k, context), (self.to_v, context)))
        return self.to_out(optimized_attention(q, k, v, self.heads))  # noqa: F821, as the count is called

    def opening(attention):
        return lambda q, k, v, *rest: attention(*q, *k, *v, *rest)

    monkeypatch.setattr(cost.CrossAttention, "forward", contained)
    monkeypatch.setattr(cost, "wrap_attn", opening)
    cost._trace.cache_clear()
    assert cost.step_work(tiny_models.sd15().model, 24, 40, rows=1, tokens=5) == expected


def test_a_model_of_another_kind_is_refused_by_name():
    with pytest.raises(cost.UncountableModel, match="MMDiT is neither a UNetModel nor a PixArtMS"):
        cost.step_work(tiny_models.auraflow().model, 32, 32, 2, 7)


def test_a_video_unet_is_refused():
    model = tiny_models.sd15().model
    model.diffusion_model.use_temporal_resblocks = True
    with pytest.raises(cost.UncountableModel, match="video model"):
        cost.step_work(model, 16, 16, 2, 7)


def test_a_size_that_the_model_cannot_take_is_refused_with_its_reason():
    with pytest.raises(cost.UncountableModel, match=r"PixArtMS at a latent of 30 x 30 .* ZeroDivisionError"):
        cost.step_work(tiny_models.pixart_sigma().model, 30, 30, 2, 7)


def test_a_model_whose_configuration_is_not_plain_data_is_refused():
    model = tiny_models.sd15().model
    model.model_config.unet_config["adapter"] = torch.nn.Identity()
    with pytest.raises(cost.UncountableModel, match="UNetModel is not plain data"):
        cost.step_work(model, 16, 16, 2, 7)


def test_attention_layers_that_another_custom_node_replaced_are_not_miscounted(monkeypatch):
    original = comfy.ldm.modules.attention.CrossAttention.forward
    monkeypatch.setattr(
        comfy.ldm.modules.attention.CrossAttention, "forward", lambda self, *args, **kw: original(self, *args, **kw)
    )
    with pytest.raises(cost.UncountableModel, match="replaced by another custom node"):
        cost.step_work(tiny_models.sd15().model, 18, 18, 2, 7)


@pytest.mark.parametrize("depth", [0, 12])
def test_a_depth_that_the_model_does_not_have_is_refused_naming_the_largest(depth):
    with pytest.raises(ValueError, match=f"depth is {depth}; with this model's 12 blocks it must lie between 1 and 11"):
        cost.step_work(tiny_models.sd15().model, 16, 16, 2, 7, depth=depth)


def test_a_deep_cache_on_a_transformer_is_refused():
    with pytest.raises(ValueError, match="no skip connections"):
        cost.step_work(tiny_models.pixart_alpha().model, 68, 68, 2, 7, depth=2)


@pytest.mark.parametrize(
    ("settings", "missing"), [(Settings(MixedResolution()), "low_size"), (Settings(deep_cache=DeepCache()), "depth")]
)
def test_a_plan_is_not_priced_without_the_low_size_or_depth_it_needs(settings, missing):
    plan = schedule.plan(settings, 8, functools.partial(schedule.step_at_uniform_timesteps, 8))
    with pytest.raises(ValueError, match=f"give .*{missing}"):
        cost.plan_work(tiny_models.sd15().model, plan, (16, 16), tokens=7)
