"""How fast each technique runs, against the stock KSampler and against two limits.

    python dev.py bench speed                                      every model at the paper's size, for a GPU
    python dev.py bench speed --model sd15 --size 512 --steps 8 --threads 1

The paper's architectures run at full size with random weights (speed does not depend on them) in the stock KSampler;
the rows take turns, so that drift cancels, and what is complete is saved after every round. Limits on the speed-up:

    arithmetic   time proportional to multiply-accumulates (postdiff_core/cost.py)
    attainable   the same plan from separately timed steps: stock steps at low and full size, with one and two rows,
                 and plain forwards without the deep branch or cross-attention, without any of the pack's code
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import _host

from arguments import positive

Seconds = dict[str, list[float]]  # by row
Peaks = dict[str, list[int | None]]  # bytes, by row

MODELS = ("sd15", "lcm", "sdxl", "pixart_alpha")
ROWS = ("mixed_resolution", "deep_cache", "cross_attn_cache", "cfg_cutoff", "all", "neutral")


def main() -> None:
    options = _parse()
    _host.start(options)
    import torch
    from _results import save, speed_table

    with torch.inference_mode():  # as ComfyUI runs nodes
        for model in options.model:
            result: dict[str, Any] = {}
            for result in measure(model, options):  # after every round: the last stays if the next is interrupted
                batch = f"-batch-{options.batch}" if options.batch > 1 else ""
                save(f"speed-{model}-{result['pixels']}px{batch}-{options.device}", result, speed_table(result))
            print(json.dumps(result, indent=1) if options.json else speed_table(result))


def measure(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run every row in turn; after each round what results/*.json holds of the rounds so far."""
    import _limits
    import _models
    from _measure import Clock, machine, take_turns
    from _overhead import neutral_milliseconds
    from tqdm import tqdm

    from postdiff.postdiff_core.presets import PRESETS

    family = _models.FAMILIES[name]
    chosen = settings_of_rows(family)
    if unknown := set(options.rows or ()) - chosen.keys():
        raise SystemExit(f"{family.title} has no row {', '.join(sorted(unknown))}; it has {', '.join(chosen)}.")
    pixels, steps = options.size or family.size, options.steps or family.steps
    clock = Clock(options.clock, options.device)
    model = _models.build(family, _host.dtype_of(options))
    inputs = _models.sampler_inputs(family, model, pixels=pixels, steps=steps, batch=options.batch)
    rows = {name: Row(chosen[name], inputs) for name in chosen if name in ("stock", *(options.rows or chosen))}
    deep_cache = PRESETS[family.preset].deep_cache
    limits = _limits.Limits(inputs, clock, depth=deep_cache.depth if deep_cache else None)
    overhead = neutral_milliseconds(clock)
    for row in tqdm(rows.values(), desc="warm-up", leave=False, disable=None):
        # Kernels are prepared for each new shape; four steps meet them all.
        row.sample(steps=min(steps, 4) if options.device == "cpu" else steps)

    def time_limits() -> None:
        limits.time_steps_of([row.report for row in rows.values() if row.report])

    seconds: Seconds = {name: [] for name in rows}
    peaks: Peaks = {name: [] for name in rows}
    actions = {**{name: row.sample for name, row in rows.items()}, "limits": time_limits}
    for turns in take_turns(actions, options.repeats, clock):
        for name in rows:
            seconds[name].append(turns[name].seconds)
            peaks[name].append(turns[name].peak)
        yield {
            "benchmark": "speed",
            "model": family.title,
            "pixels": pixels,
            "steps": steps,
            "batch": options.batch,
            "dtype": options.dtype,
            "clock": options.clock,
            "repeats": len(seconds["stock"]),
            "seed": inputs["seed"],
            "machine": machine(options.device),
            "rows": [document(name, row, seconds, peaks, limits) for name, row in rows.items()],
            "step_kinds": limits.document(),
            "neutral_ms_per_evaluation": overhead,
        }


def document(name: str, row: Row, seconds: Seconds, peaks: Peaks, limits: Any) -> dict[str, Any]:
    """A row of the results, against the stock row."""
    from _measure import MB, spread

    own, stock = ([peak for peak in peaks[each] if peak is not None] for each in (name, "stock"))
    return {
        "name": name,
        "rounds": list(seconds[name]),
        "seconds": statistics.median(seconds[name]),
        "spread": spread(seconds[name]),
        "speedup": statistics.median(s / o for s, o in zip(seconds["stock"], seconds[name], strict=True)),
        "arithmetic": row.arithmetic_limit,
        "attainable": limits.speedup_of(row.report) if row.report else 1.0,
        "peak_memory_above_stock_mb": (statistics.median(own) - statistics.median(stock)) / MB if own else None,
        "cached_mb": row.report["cached_bytes"] / MB if row.report else 0.0,
    }


def settings_of_rows(family: Any) -> dict[str, Any]:
    """The settings of each row; None for the stock run."""
    from postdiff.postdiff_core.presets import PRESETS
    from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings

    preset = PRESETS[family.preset]
    alone = {name: Settings(**{name: technique}) for name, technique in preset.asked.items()}
    if not family.guided:
        del alone["cfg_cutoff"]  # it has nothing to leave out
    neutral = Settings(
        MixedResolution(low_res_until=0.0),
        DeepCache(interval=1) if preset.deep_cache else None,
        CrossAttnCache(start_percent=1.0),
        CFGCutoff(start_percent=1.0),
    )
    return {"stock": None, **alone, "all": preset, "neutral": neutral}


class Row:
    """The stock KSampler on a MODEL with these settings (None: without PostDiff)."""

    def __init__(self, settings: Any, inputs: dict[str, Any]) -> None:
        from postdiff.postdiff_core import patch

        model = patch.fill(inputs["model"], settings) if settings else inputs["model"]
        self._inputs = {**inputs, "model": model}
        self._carried = patch.carried_by(model)

    def sample(self, **other: Any) -> None:
        import nodes
        import torch

        samples = nodes.KSampler().sample(**{**self._inputs, **other})[0]["samples"]
        if not torch.isfinite(samples).all():
            raise RuntimeError("The random model gave numbers that are not finite; its times would mean nothing.")

    @property
    def report(self) -> dict[str, Any] | None:
        """What the last run did; None for the stock row."""
        return self._carried.last_report

    @property
    def arithmetic_limit(self) -> float:
        totals = self.report["totals"] if self.report else {"macs": 1, "macs_stock": 1}
        return totals["macs_stock"] / totals["macs"]


def _parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench speed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS, help="default: every one")
    parser.add_argument("--size", type=positive, help="pixels a side; default: the paper's")
    parser.add_argument("--steps", type=positive, help="default: the paper's")
    parser.add_argument(
        "--batch", type=positive, default=1, help="pictures at once; where one waits for launches, more"
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="which rows to run besides stock; default: every one")
    _host.add_options(parser)
    _host.add_timing_options(parser)
    _host.add_json_option(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
