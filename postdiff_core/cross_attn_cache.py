"""Cross-attention cache (section 2.5 of the paper): from step mT on, each layer returns what it gave before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.pixart.pixartms import PixArtMSBlock
from comfy.patcher_extension import WrappersMP
from einops import rearrange

from .architecture import Size, diffusion_model_of, downsamplings, halve, is_compiled, whole_module
from .branches import Branch, Row
from .row_cache import Cached, RowCache, join, keeper
from .run import ROWS, Run, replaced
from .schedule import CrossAttnCache, Mode

Place = tuple[str, int, int]

OTHER_ROWS = (
    "A node gives layers of cross-attention more rows than the model call has (regional prompts by attention couple): "
    "those layers are computed in every step."
)


class Site(NamedTuple):
    """One cross-attention layer.

    `place` is the host's name of it, ("input", 4, 0): kind, block, transformer within it. `output` is the module that
    gives the layer's result, also where a replacement (IPAdapter) attends in the layer's stead.
    """

    place: Place
    module: torch.nn.Module
    output: torch.nn.Module


def refusal(model: Any) -> str | None:
    """Why the cross-attention cache cannot act on this MODEL; None if it can."""
    diffusion_model = diffusion_model_of(model)
    if find_sites(diffusion_model):
        return None
    return (
        f"The cross-attention cache cannot act on {type(model.model).__name__}: {type(diffusion_model).__name__} "
        "has no cross-attention layers like those of Stable Diffusion U-Nets or PixArt."
    )


def find_sites(diffusion_model: torch.nn.Module) -> list[Site]:
    """The cross-attention layers of a U-Net or PixArt, in no particular order; empty for other models."""
    diffusion_model = whole_module(diffusion_model)
    sites = []
    for name, module in diffusion_model.named_modules():
        name = name.replace("._orig_mod", "")  # what torch.compile puts around a block that it compiles alone
        if isinstance(module, PixArtMSBlock):
            sites.append(Site(("blocks", int(name.rpartition(".")[2]), 0), module.cross_attn, module.cross_attn))
        elif isinstance(diffusion_model, UNetModel) and _has_cross_attention(name, module):
            attn2: Any = module.attn2
            sites.append(Site(_unet_place(name), attn2, attn2.to_out))
    return sites


def output_size(diffusion_model: torch.nn.Module, latent: Size) -> int:
    """Numbers in one row of the outputs of all cross-attention layers, for a latent of this height and width."""
    return sum(
        _width(site) * math.prod(halve(latent, _level(diffusion_model, site.place)))
        for site in find_sites(diffusion_model)
    )


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
        if id(diffusion_model) not in sites:
            sites[id(diffusion_model)] = find_sites(diffusion_model)
        known, latent = sites[id(diffusion_model)], tuple(x.shape[-2:])
        hits = memory.recall(known, rows, latent) if reusing else {}
        reused = memory.rows_that_are_reused(rows)
        wanted = {
            # A layer that returns its cache computes all rows after all where another node has changed its size.
            site: list(rows) if site in hits else memory.missing(site, reused, latent) if reusing else reused
            for site in known
        }
        # Later patches may change the tokens in place.
        copy = "attn2_output_patch" in transformer_options.get("patches", {})
        seen: dict[Site, torch.Tensor] = {}
        options = _options_for(transformer_options, hits)
        recording = _recording(wanted, x.shape[0], seen, partial(run.note, OTHER_ROWS), copy=copy)
        with replaced(recording | _reusing(hits, copy=copy)):
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if is_compiled(diffusion_model):
            seen = {site: tokens.clone() for site, tokens in seen.items()}
        memory.record(wanted, seen, latent)
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

    def rows_that_are_reused(self, rows: Sequence[Row]) -> list[Row]:
        """All but the negative of a pair where guidance has stopped when reuse begins, and nothing is mixed from it."""
        plan = self._run.plan
        if self._mode != "cond" or plan.guidance_stop > max(plan.cross_attn_start, self._run.step.index):
            return list(rows)
        return [row for row in rows if not (row.paired and row.role == "negative")]

    def missing(self, site: Site, rows: Sequence[Row], latent: Size) -> list[Row]:
        """Those of the rows for which nothing of this layer is kept."""
        return [row for row in rows if self._part(site, row, latent) is None]

    def record(self, wanted: dict[Site, list[Row]], seen: dict[Site, torch.Tensor], latent: Size) -> None:
        """Keep what the layers gave, (B, N, C) each, for the rows wanted of them."""
        for site, tokens in seen.items():
            self._cache.store(site.place, wanted[site], tokens, latent)
            for row in wanted[site]:
                self._mixed.drop(site.place, row.branch)

    def recall(self, sites: Sequence[Site], rows: Sequence[Row], latent: Size) -> dict[Site, torch.Tensor]:
        """The layers' outputs for these rows on this latent's token grid; without the layers where one is missing."""
        parts = {site: [self._part(site, row, latent) for row in rows] for site in sites}
        return {site: join(found) for site, found in parts.items() if all(found)}  # type: ignore[arg-type]

    def _part(self, site: Site, row: Row, latent: Size) -> Cached | None:
        cache, branch = self._cache, row.branch
        if self._mode != "cond" and row.role == "positive" and not row.paired and self._mix(site, branch):
            cache = self._mixed
        cached = cache.get(site.place, branch)
        if cached is None or cached.latent == latent:
            return cached
        resized = resize_tokens(cached.rows, cached.latent, latent)
        if resized is None:
            return None
        cache.put(site.place, branch, resized, latent)
        return cache.get(site.place, branch)

    def _mix(self, site: Site, positive: Branch) -> bool:
        """Make what the remaining row reuses after the cut-off; false if there is no other row to mix with."""
        if self._mixed.get(site.place, positive) is not None:
            return True
        partner = self._run.branches.partner_of(positive)
        negative = self._cache.on_any_device(site.place, partner) if partner else None
        cond = self._cache.get(site.place, positive)
        uncond = self._cache.get(site.place, negative) if negative else None
        if (
            negative is None
            or cond is None
            or uncond is None
            or cond.latent != uncond.latent
            or cond.rows.shape != uncond.rows.shape
        ):
            return False
        mixed = mix(cond.rows, uncond.rows.to(cond.rows.device), self._mode, self._run.guider.cfg)
        self._mixed.put(site.place, positive, mixed, cond.latent)
        self._cache.drop(site.place, positive)
        self._cache.drop(site.place, negative)
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


def resize_tokens(tokens: torch.Tensor, latent: Size, new_latent: Size) -> torch.Tensor | None:
    """Tokens (B, N, C) of a layer on one latent, bilinear on the token grid of another latent.

    None if N is no downsampling of the latent by halves.
    """
    level = _halvings(latent, tokens.shape[1])
    if level is None:
        return None
    height, _ = halve(latent, level)
    images = rearrange(tokens, "b (h w) c -> b c h w", h=height)
    resized = torch.nn.functional.interpolate(images, size=halve(new_latent, level), mode="bilinear")
    return rearrange(resized, "b c h w -> b (h w) c")


def _halvings(grid: Size, tokens: int) -> int | None:
    level = 0
    while grid[0] * grid[1] > tokens:
        grid = halve(grid, 1)
        level += 1
    return level if grid[0] * grid[1] == tokens else None


def _has_cross_attention(name: str, module: torch.nn.Module) -> bool:
    """Whether this is a transformer block with cross-attention, and not one between the frames of a video (SVD)."""
    return isinstance(module, BasicTransformerBlock) and module.attn2 is not None and ".transformer_blocks." in name


def _unet_place(name: str) -> Place:
    """("input", 4, 0) from input_blocks.4.1.transformer_blocks.0, ("middle", 0, 0) from the middle block's first."""
    parts = name.split(".")
    kind = parts[0].partition("_")[0]
    return kind, 0 if kind == "middle" else int(parts[1]), int(parts[-1])


def _width(site: Site) -> int:
    layer: Any = site.module
    return (layer.proj if site.place[0] == "blocks" else layer.to_out[0]).out_features


def _level(diffusion_model: Any, place: Place) -> int:
    """How often the latent's sides are halved on the way to this layer."""
    kind, block, _ = place
    if kind == "blocks":
        return 1  # PixArt's patches of 2 x 2
    inputs = diffusion_model.input_blocks
    reached = {"input": block + 1, "middle": len(inputs), "output": len(inputs) - block}[kind]
    return downsamplings(inputs[:reached])


def _options_for(options: dict, hits: dict[Site, torch.Tensor]) -> dict:
    """Transformer options for a call in which `hits` return their cache.

    Replacements (IPAdapter) and input patches act on layers that are computed. For the others they would run for
    nothing, so that an input patch of our own, which is asked as a layer is reached, decides about them.
    """
    patches, replacements = options.get("patches", {}), options.get("patches_replace", {})
    others, given = patches.get("attn2_patch", ()), replacements.get("attn2", {})
    if not hits or not (others or given):
        return options
    kept = {site.place: tokens for site, tokens in hits.items()}
    acting: dict[Place, Callable] = {}

    def on_layer(x, context, value, layer):
        place = (*layer["block"], layer["block_index"])
        if place in kept and _fits(kept[place], x):
            return x, context, value
        replacement = given.get(place, given.get(place[:2]))
        if replacement is not None:
            acting[place] = replacement
        for patch in others:
            x, context, value = patch(x, context, value, layer)
        return x, context, value

    return {
        **options,
        "patches": {**patches, "attn2_patch": [on_layer]},
        "patches_replace": {**replacements, "attn2": acting},
    }


def _fits(kept: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether a layer has the size that it had; another patch (Deep Shrink) may change it within the model."""
    return kept.shape[:2] == x.shape[:2]


def _reusing(hits: dict[Site, torch.Tensor], *, copy: bool) -> dict[tuple[torch.nn.Module, str], Callable]:
    """Forwards that return what the layers gave before, where it fits, to replace the layers' own for a call."""

    def reusing(compute: Callable, kept: torch.Tensor) -> Callable:
        def forward(x, *args, **kwargs):
            if not _fits(kept, x):
                return compute(x, *args, **kwargs)
            return kept.clone() if copy else kept

        return forward

    return {(site.module, "forward"): reusing(site.module.forward, tokens) for site, tokens in hits.items()}


def _recording(
    wanted: dict[Site, list[Row]],
    batch: int,
    seen: dict[Site, torch.Tensor],
    on_other_rows: Callable[[], None],
    *,
    copy: bool,
) -> dict[tuple[torch.nn.Module, str], Callable]:
    """Forwards that put the rows wanted of each layer into `seen`, to replace the layers' own for a call.

    A layer that another node has given more rows than the call's `batch` is left out.
    """

    def recording(site: Site, keep: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
        compute = site.output.forward

        def forward(*args, **kwargs):
            tokens = compute(*args, **kwargs)
            if tokens.shape[0] == batch:
                seen[site] = keep(tokens)
            else:
                on_other_rows()
            return tokens

        return forward

    return {
        (site.output, "forward"): recording(site, keeper(rows, batch, copy=copy))
        for site, rows in wanted.items()
        if rows
    }
