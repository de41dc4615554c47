"""Cross-attention cache (section 2.5 of the paper): from step mT on, each layer returns what it gave before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from einops import rearrange

from .architecture import Size, diffusion_model_of, halve
from .branches import Branch, Chunk, without_negative
from .cross_attn_sites import Place, Site, find_sites
from .row_cache import Cached, RowCache, join, keeper
from .run import CHUNKS, Run, replaced
from .schedule import CrossAttnCache, Mode

OTHER_ROWS = (
    "A node gives layers of cross-attention more rows than the model call has (regional prompts by attention couple): "
    "those layers are computed in every step. The plan and the work saved do not show it."
)


def refusal(model: Any) -> str | None:
    """Why the cross-attention cache cannot act on this MODEL; None if it can."""
    diffusion_model = diffusion_model_of(model)
    if find_sites(diffusion_model):
        return None
    return (
        f"The cross-attention cache cannot act on {type(model.model).__name__}: {type(diffusion_model).__name__} "
        "has no cross-attention layers like those of Stable Diffusion U-Nets or PixArt."
    )


def install(run: Run, settings: CrossAttnCache) -> None:
    """Add the cross-attention cache to a run."""
    outputs = _Outputs(run, settings.mode)
    run.add_wrapper(WrappersMP.APPLY_MODEL, _Reuse(run, outputs))
    run.note_at_end(outputs.idle_mode)


class _Reuse:
    """Runs a model call in which layers give what is kept of them, and keeps what later calls want of the others."""

    def __init__(self, run: Run, outputs: _Outputs) -> None:
        self.run, self.outputs = run, outputs
        self.sites_of = functools.cache(find_sites)  # of a diffusion model: several GPUs have one each

    def __call__(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **kwargs):
        chunks, step = transformer_options.get(CHUNKS), self.run.step
        reusing = step.cross_attn == "reuse"
        if chunks is None or not (reusing or self.run.plan.cross_attn_is_recorded_in(step.index)):
            return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
        diffusion_model, latent = executor.class_obj.diffusion_model, tuple(x.shape[-2:])
        sites = self.sites_of(diffusion_model)
        hits = self.outputs.recall(sites, chunks, latent) if reusing else {}
        reused = self.outputs.chunks_that_are_reused(chunks)
        if reusing:
            self.run.count_window(chunks, is_there=bool(hits))
        wanted = {
            # Where another node has resized a layer, its cache does not fit: it computes, and all its rows are kept.
            site: list(chunks) if site in hits else self.outputs.missing(site, reused, latent) if reusing else reused
            for site in sites
        }
        # Later patches may change the tokens in place.
        copy = "attn2_output_patch" in transformer_options.get("patches", {})
        seen: dict[Site, torch.Tensor] = {}
        options = _options_for(transformer_options, hits)
        recording = _recording(wanted, x.shape[0], seen, functools.partial(self.run.note, OTHER_ROWS), copy=copy)
        with replaced(recording | _reusing(hits, copy=copy)):
            out = executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        if self.run.is_compiled(diffusion_model):
            seen = {site: tokens.clone() for site, tokens in seen.items()}
        self.outputs.record(wanted, seen, latent)
        self.run.measure_caches()
        return out


class _Outputs:
    """What the layers gave last, by layer and branch, and what a branch is to get back."""

    def __init__(self, run: Run, mode: Mode) -> None:
        self._run = run
        self._mode = mode
        self._cache: RowCache = run.new_cache()
        self._mixed: RowCache = run.new_cache()
        self._has_mixed = False
        self._recorded_in: dict[Place, int] = {}  # step

    def idle_mode(self) -> str | None:
        """What to note of a mode that decided nothing in the run; None if it did."""
        if self._mode == "cond" or self._has_mixed:
            return None
        return (
            f"Cross-Attention Cache's mode {self._mode} had no effect: it mixes in what the negative prompt gave, once "
            "guidance is cut off. That takes one positive and one negative prompt, evaluated together, and a CFG "
            "Cut-off that starts at the cache's start_percent or later, and before 1."
        )

    def chunks_that_are_reused(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """All but the negative ones of a guided pass where guidance stops before reuse and nothing is mixed."""
        run = self._run
        is_reused = run.plan.negative_cross_attn_is_reused_after(run.step.index, self._mode) or run.keeps_guidance
        return list(chunks) if is_reused else without_negative(chunks)

    def missing(self, site: Site, chunks: Sequence[Chunk], latent: Size) -> list[Chunk]:
        """Those of the chunks for which nothing of this layer is kept, but is worth keeping: a window has moved on."""
        return [chunk for chunk in chunks if chunk.branch.window is None and self._part(site, chunk, latent) is None]

    def record(self, wanted: dict[Site, list[Chunk]], seen: dict[Site, torch.Tensor], latent: Size) -> None:
        """Keep what the layers gave, (B, N, C) each, for the chunks wanted of them."""
        step = self._run.step
        for site, tokens in seen.items():
            if step.cross_attn != "reuse" and self._recorded_in.get(site.place) != step.index:
                self._recorded_in[site.place] = step.index
                self._cache.drop_windows(site.place)  # those of the steps before: they may lie elsewhere now
            self._cache.store(site.place, wanted[site], tokens, latent)
            for chunk in wanted[site]:
                self._mixed.drop(site.place, chunk.branch)

    def recall(self, sites: Sequence[Site], chunks: Sequence[Chunk], latent: Size) -> dict[Site, torch.Tensor]:
        """The layers' outputs for these chunks on this latent's token grid; without the layers where one is missing."""
        parts = {site: [self._part(site, chunk, latent) for chunk in chunks] for site in sites}
        return {site: join(found) for site, found in parts.items() if all(found)}  # type: ignore[arg-type]

    def _part(self, site: Site, chunk: Chunk, latent: Size) -> Cached | None:
        cache, branch = self._cache, chunk.branch
        if self._mode != "cond" and chunk.role == "positive" and not chunk.guided and self._mix(site, branch):
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
        """Make what the remaining chunk reuses after the cut-off; false if there is no other chunk to mix with."""
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
        self._has_mixed = True
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
    """Forwards that return what the layers gave before, where it fits, to replace the layers' own for a call.

    The normalisation before such a layer, which nothing else reads, is left out with it.
    """

    def reusing(compute: Callable, kept: torch.Tensor) -> Callable:
        def forward(x, *args, **kwargs):
            if not _fits(kept, x):
                return compute(x, *args, **kwargs)
            return kept.clone() if copy else kept

        return forward

    def passing(compute: Callable, kept: torch.Tensor) -> Callable:
        return lambda x: x if _fits(kept, x) else compute(x)

    layers = {(site.module, "forward"): reusing(site.module.forward, tokens) for site, tokens in hits.items()}
    norms = {(site.norm, "forward"): passing(site.norm.forward, kept) for site, kept in hits.items() if site.norm}
    return layers | norms


def _recording(
    wanted: dict[Site, list[Chunk]],
    batch: int,
    seen: dict[Site, torch.Tensor],
    on_other_rows: Callable[[], None],
    *,
    copy: bool,
) -> dict[tuple[torch.nn.Module, str], Callable]:
    """Forwards that put the chunks wanted of each layer into `seen`, to replace the layers' own for a call.

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
        (site.output, "forward"): recording(site, keeper(chunks, batch, copy=copy))
        for site, chunks in wanted.items()
        if chunks
    }
