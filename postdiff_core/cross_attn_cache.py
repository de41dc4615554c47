"""Cross-attention cache (section 2.5 of the paper): from step mT on, each layer returns what it gave before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.pixart.pixartms import PixArtMSBlock
from comfy.patcher_extension import WrappersMP
from einops import rearrange

from .run import ROWS, Branch, Cached, Row, RowCache, Run, join
from .schedule import CrossAttnCache, Mode

Grid = tuple[int, int]


class Site(NamedTuple):
    """One cross-attention layer.

    `block` is the host's name of the place, ("input", 4, 0): kind, block, transformer within it.
    """

    block: tuple[str, int, int]
    module: torch.nn.Module


def check(model: Any) -> None:
    """Raise ValueError, naming the remedy, if this MODEL has no cross-attention layers that can be cached."""
    diffusion_model = model.get_model_object("diffusion_model")
    if not find_sites(diffusion_model):
        raise ValueError(
            f"The cross-attention cache cannot act on {type(model.model).__name__}: {type(diffusion_model).__name__} "
            "has no cross-attention layers like those of Stable Diffusion U-Nets or PixArt. "
            "Use CFGCutoff or MixedResolutionPatch instead."
        )


def find_sites(diffusion_model: torch.nn.Module) -> list[Site]:
    """The cross-attention layers of a U-Net or PixArt, in no particular order; empty for other models."""
    diffusion_model = getattr(diffusion_model, "_orig_mod", diffusion_model)  # torch.compile's wrapping
    sites = []
    for name, module in diffusion_model.named_modules():
        if isinstance(module, PixArtMSBlock):
            sites.append(Site(("blocks", int(name.rpartition(".")[2]), 0), module.cross_attn))
        elif isinstance(diffusion_model, UNetModel) and _has_cross_attention(module):
            sites.append(Site(_unet_block(name), module.attn2))
    return sites


def install(run: Run, settings: CrossAttnCache) -> None:
    """Add the cross-attention cache to a run."""
    memory = _Memory(run, settings.mode)
    sites: dict[int, list[Site]] = {}

    def wrapper(executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        rows = transformer_options.get(ROWS)
        reusing = run.step.cross_attn == "reuse"
        if rows is None or not (reusing or run.plan.cross_attn_is_recorded_in(run.step.index)):
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        diffusion_model = executor.class_obj.diffusion_model
        known = sites.setdefault(id(diffusion_model), find_sites(diffusion_model))
        latent = tuple(x.shape[-2:])
        recalled = {site: memory.recall(site, rows, latent) for site in known} if reusing else {}
        hits = {site: tokens for site, tokens in recalled.items() if tokens is not None}
        misses = [site for site in known if site not in hits]

        def record(site: Site, tokens: torch.Tensor) -> None:
            missing = [row for row in rows if memory.lacks(site, row, latent)] if reusing else rows
            memory.record(site, missing, latent, tokens)

        options = _options_for(transformer_options, list(hits), misses, record)
        with _replaced_forwards(hits, misses, record):
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        run.measure_caches()
        return out

    run.add_wrapper(WrappersMP.APPLY_MODEL, wrapper)


class _Memory:
    """What the layers gave last, by layer and branch, and what a branch is to get back."""

    def __init__(self, run: Run, mode: Mode) -> None:
        self._run = run
        self._mode = mode
        self._cache: RowCache = run.new_cache()
        self._mixed: RowCache = run.new_cache()

    def record(self, site: Site, rows: Sequence[Row], latent: Grid, tokens: torch.Tensor) -> None:
        """Keep the output (B, N, C) of a layer for the rows that will reuse it."""
        kept = [row for row in rows if not self._is_never_reused(row)]
        self._cache.store(site.block, kept, tokens, latent)

    def recall(self, site: Site, rows: Sequence[Row], latent: Grid) -> torch.Tensor | None:
        """The layer's output for these rows on this latent's token grid, or None if one of them has none."""
        parts = [self._part(site, row, latent) for row in rows]
        return join(parts) if all(part is not None for part in parts) else None  # type: ignore[arg-type]

    def lacks(self, site: Site, row: Row, latent: Grid) -> bool:
        """Whether the layer has nothing for this row that fits this latent."""
        return self._part(site, row, latent) is None

    def _is_never_reused(self, row: Row) -> bool:
        """The negative row of a pair, if guidance has stopped when reuse begins and nothing is mixed from it."""
        plan = self._run.plan
        return (
            row.role == "negative"
            and row.paired
            and self._mode == "cond"
            and plan.guidance_stop <= max(plan.cross_attn_start, self._run.step.index)
        )

    def _part(self, site: Site, row: Row, latent: Grid) -> Cached | None:
        cache, branch = self._cache, row.branch
        if self._mode != "cond" and row.role == "positive" and not row.paired and self._mix(site, branch):
            cache = self._mixed
        cached = cache.get(site.block, branch)
        if cached is None or cached.about == latent:
            return cached
        resized = resize_tokens(cached.rows, cached.about, latent)
        if resized is None:
            return None
        cache.put(site.block, branch, resized, latent)
        return cache.get(site.block, branch)

    def _mix(self, site: Site, positive: Branch) -> bool:
        """Make what the remaining row reuses after the cut-off; false if there is no other row to mix with."""
        if self._mixed.get(site.block, positive) is not None:
            return True
        negative = self._run.partner_of(positive)
        cond = self._cache.get(site.block, positive)
        uncond = self._cache.get(site.block, negative) if negative else None
        if cond is None or uncond is None or cond.about != uncond.about or cond.rows.shape != uncond.rows.shape:
            return False
        mixed = mix(cond.rows, uncond.rows, self._mode, self._run.guider.cfg)
        self._mixed.put(site.block, positive, mixed, cond.about)
        for branch in (positive, negative):
            self._cache.drop(site.block, branch)
        return True


def mix(cond: torch.Tensor, uncond: torch.Tensor, mode: Mode, guidance_scale: float) -> torch.Tensor:
    """CA_cache of section 2.5 from the outputs with text and with null text; w is the guidance scale."""
    match mode:
        case "cond":
            return cond
        case "average":
            return (cond + uncond) / 2
        case "uncond":
            return uncond.clone()
        case "cfg":
            return uncond + guidance_scale * (cond - uncond)


def resize_tokens(tokens: torch.Tensor, latent: Grid, new_latent: Grid) -> torch.Tensor | None:
    """Tokens (B, N, C) of a layer on one latent, bilinear on the token grid of another latent.

    None if N is no downsampling of the latent by halves.
    """
    level = _halvings(latent, tokens.shape[1])
    if level is None:
        return None
    height, _ = _halve(latent, level)
    images = rearrange(tokens, "b (h w) c -> b c h w", h=height)
    resized = torch.nn.functional.interpolate(images, size=_halve(new_latent, level), mode="bilinear")
    return rearrange(resized, "b c h w -> b (h w) c")


def _halve(grid: Grid, times: int) -> Grid:
    for _ in range(times):
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    return grid


def _halvings(grid: Grid, tokens: int) -> int | None:
    level = 0
    while grid[0] * grid[1] > tokens:
        grid = _halve(grid, 1)
        level += 1
    return level if grid[0] * grid[1] == tokens else None


def _has_cross_attention(module: torch.nn.Module) -> bool:
    return (
        isinstance(module, BasicTransformerBlock) and module.attn2 is not None and not module.switch_temporal_ca_to_sa
    )


def _unet_block(name: str) -> tuple[str, int, int]:
    """("input", 4, 0) from input_blocks.4.1.transformer_blocks.0, ("middle", 0, 0) from the middle block's first."""
    parts = name.split(".")
    kind = parts[0].partition("_")[0]
    return kind, 0 if kind == "middle" else int(parts[1]), int(parts[-1])


def _options_for(
    options: dict, hits: Sequence[Site], misses: Sequence[Site], record: Callable[[Site, torch.Tensor], None]
) -> dict:
    """Transformer options for a call in which `hits` return their cache and `misses` are computed and recorded.

    A U-Net layer is recorded through the first attn2_output_patch, which also sees what an attn2 replacement
    (IPAdapter) gave. Replacements and input patches of layers that are not computed are left out: they would run for
    nothing.
    """
    patches = dict(options.get("patches", {}))
    others = patches.get("attn2_output_patch", [])
    replacements = dict(options.get("patches_replace", {}))
    by_block = {site.block: site for site in misses}

    def capture(tokens, extra_options):
        site = by_block.get((*extra_options["block"], extra_options["block_index"]))
        if site is not None:
            # Later patches may change the tokens in place.
            record(site, tokens.clone() if others else tokens)
        return tokens

    if by_block:
        patches["attn2_output_patch"] = [capture, *others]
    if hits:
        if not misses:
            patches.pop("attn2_patch", None)
        given = replacements.pop("attn2", {})
        replacements["attn2"] = {
            block: given.get(block, given.get(block[:2])) for block in by_block if block in given or block[:2] in given
        }
    return {**options, "patches": patches, "patches_replace": replacements}


@contextlib.contextmanager
def _replaced_forwards(
    hits: dict[Site, torch.Tensor], misses: Sequence[Site], record: Callable[[Site, torch.Tensor], None]
) -> Iterator[None]:
    """For one model call, let `hits` return their cache, and record PixArt's `misses` (it has no patches to do it)."""
    forwards = {site.module: _reusing(site.module, tokens) for site, tokens in hits.items()}
    forwards |= {site.module: _recording(site, record) for site in misses if site.block[0] == "blocks"}
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward


def _reusing(module: torch.nn.Module, tokens: torch.Tensor) -> Callable:
    compute = module.forward

    def forward(x, *args, **kwargs):
        if tokens.shape[:2] != x.shape[:2]:
            # Another patch (Deep Shrink) has changed the layer's size within the model.
            return compute(x, *args, **kwargs)
        patched = "attn2_output_patch" in kwargs.get("transformer_options", {}).get("patches", {})
        return tokens.clone() if patched else tokens

    return forward


def _recording(site: Site, record: Callable[[Site, torch.Tensor], None]) -> Callable:
    compute = site.module.forward

    def forward(*args, **kwargs):
        tokens = compute(*args, **kwargs)
        record(site, tokens)
        return tokens

    return forward
