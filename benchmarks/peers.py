"""PostDiff beside ComfyUI's own ways to save work, other packs, and fewer steps, on one machine in one run.

    python dev.py bench peers
    python dev.py bench peers speed --model sd15 --size 256 --steps 8
    python dev.py bench peers error --pictures 24
    python dev.py bench peers speed --pack PATH --set NODE.input=JSON
    python dev.py bench peers reuse

Without a name all three are made as they are by default. `speed` times each at its defaults on the paper's architecture
with random weights. `error` sweeps their settings on the embedded model and compares pictures, with what they show and
with the stock run's, at the same executed multiply-accumulates (counted while they run). A peer that fails is shown
with its error. `reuse` asks why a deep cache drifts as far as fewer steps do: how much a step errs that reuses the deep
branch, and one that is left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _host

from arguments import positive

MEASURES = ("speed", "error", "reuse")


def main() -> None:
    parser = command_line()
    asked = sys.argv[1:]
    every = [parser.parse_args(words) for words in ([asked] if asked else [[what] for what in MEASURES])]
    first = every[0]
    _host.start(first)
    for options in every:
        options.device = first.device
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Make one of the tables, save and print it."""
    import _results
    import torch

    with torch.inference_mode():  # as ComfyUI runs nodes
        result = {"speed": measure_speed, "error": measure_error, "reuse": measure_reuse}[options.what](options)

    tables = {
        "speed": _results.peers_speed_table,
        "error": _results.peers_error_table,
        "reuse": _results.reuse_table,
    }
    table = tables[options.what](result)
    _results.save(f"peers-{options.what}-{result['subject']}-{options.device}", result, table)
    print(json.dumps(result, indent=1) if options.json else table)


def measure_speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each peer at its defaults, taking turns with the stock run.

    Packs come last, one by one: what they leave in a model would slow down all others, the stock run too.
    """
    import _candidates
    import _models
    from _measure import Clock, spread

    family = _models.FAMILIES[options.model]
    pixels, steps = options.size or family.size, options.steps or family.steps
    clock = Clock(options.clock, options.device)
    model = _models.build(family, _host.dtype_of(options))
    inputs = _models.sampler_inputs(family, model, pixels=pixels, steps=steps)
    unchanged = _candidates.Candidate("stock", "", lambda given: given)
    rows = []
    for group in ([unchanged, *_candidates.at_defaults(family.preset)], *([pack] for pack in _packs(options))):
        rows += take_turns_if_they_work(group, inputs, options.repeats, clock)
    stock = next(row for row in rows if row["name"] == "stock")
    if stock["failure"]:
        raise RuntimeError(f"The stock run failed: {stock['failure']}")
    for row in rows:
        if row["failure"] is None:
            ratios = [before / own for before, own in zip(stock["rounds"], row["rounds"], strict=True)]
            row |= {"seconds": statistics.median(row["rounds"]), "spread": spread(row["rounds"])}
            row["speedup"] = statistics.median(ratios)
    return {
        **_document(options, options.model),
        "clock": options.clock,
        "repeats": options.repeats,
        "title": f"{family.title}, {pixels} px, {steps} steps, {options.dtype}",
        "stock_seconds": stock["seconds"],
        "stock_spread": stock["spread"],
        "rows": [row for row in rows if row is not stock],
    }


def take_turns_if_they_work(
    candidates: Sequence[Any], inputs: dict[str, Any], rounds: int, clock: Any
) -> list[dict[str, Any]]:
    """A row for each candidate with its seconds, one a round, or with why it failed."""
    from _measure import attempt, sample, take_turns

    rows: dict[str, dict[str, Any]] = {}
    actions = {}
    for candidate in candidates:
        row: dict[str, Any] = {"name": candidate.name, "setting": candidate.setting, "rounds": [], "failure": None}
        prepared: dict[str, Any] = {}

        def warm_up(candidate: Any = candidate, prepared: dict[str, Any] = prepared) -> None:
            prepared.update(candidate.prepare(inputs))
            # Kernels are prepared for each new shape; four steps meet them all.
            sample({**prepared, "steps": min(prepared["steps"], 4) if clock.device == "cpu" else prepared["steps"]})

        def run(row: dict[str, Any] = row, prepared: dict[str, Any] = prepared) -> None:
            row["failure"] = row["failure"] or attempt(lambda: sample(prepared))

        row["failure"] = attempt(warm_up)
        rows[candidate.name] = row
        if row["failure"] is None:
            actions[candidate.name] = run
    for turns in take_turns(actions, rounds, clock):
        for name, turn in turns.items():
            rows[name]["rounds"].append(turn.seconds)
    return list(rows.values())


def measure_error(options: argparse.Namespace) -> dict[str, Any]:
    """Picture error and executed work of each peer over its settings."""
    import _candidates
    from _measure import attempt, count, sample
    from _subjects import EmbeddedModel, RandomModel
    from tqdm import tqdm

    dtype = _host.dtype_of(options)
    subject = RandomModel(dtype) if options.model == "random" else EmbeddedModel(options.pictures, dtype)
    inputs = [{**given, "steps": options.steps or given["steps"]} for given in subject.inputs]
    candidates = [*_candidates.sweeps(), *_packs(options)]
    stock_latents: list[Any] = []
    with tqdm(total=(len(candidates) + 1) * len(inputs), disable=None) as progress:

        def judge(candidate: Any) -> dict[str, Any]:
            row: dict[str, Any] = {"name": candidate.name, "setting": candidate.setting}
            row["keeps_composition"] = candidate.keeps_composition
            progress.set_description(candidate.name)

            def run() -> None:
                errors, drifts = [], []
                for number, given in enumerate(inputs):
                    prepared = candidate.prepare(given)
                    if number == 0:
                        latent, row["macs"] = count(lambda p=prepared: sample(p))
                    else:
                        latent = sample(prepared)
                    if candidate is unchanged:
                        stock_latents.append(latent)
                    errors.append(subject.error(number, latent))
                    drifts.append(float((latent - stock_latents[number]).norm() / stock_latents[number].norm()))
                    progress.update()
                row["errors"], row["drifts"] = errors, drifts

            row["failure"] = attempt(run)
            return row

        unchanged = _candidates.Candidate("stock", "", lambda given: given)
        stock = judge(unchanged)
        if stock["failure"]:
            raise RuntimeError(f"The stock run failed: {stock['failure']}")
        rows = [judge(candidate) for candidate in candidates]
    for row in rows:
        if not row["failure"]:
            row["work_saved_factor"] = stock["macs"] / row["macs"]
    return {
        **_document(options, subject.name),
        "weights": subject.weights,
        "prompts": subject.prompts,
        "title": f"{subject.title}, {len(inputs)} pictures, {inputs[0]['steps']} steps, {options.dtype}",
        "error_is": subject.error_is,
        "stock": stock,
        "rows": rows,
    }


def measure_reuse(options: argparse.Namespace) -> dict[str, Any]:
    """What each second step errs if the deep branch is reused in it, and if the step is left out."""
    from _measure import mean_and_its_error
    from _reuse import DEPTH, step_errors
    from _subjects import EmbeddedModel
    from tqdm import tqdm

    subject = EmbeddedModel(options.pictures)
    pictures = [step_errors(given) for given in tqdm(subject.inputs, unit="picture", disable=None)]
    return {
        **_document(options, subject.name),
        "weights": subject.weights,
        "prompts": subject.prompts,
        "title": f"{subject.title}, {len(pictures)} pictures, {subject.inputs[0]['steps']} steps",
        "depth": DEPTH,
        "rows": [
            {
                "step": errors[0].step,
                "sigma": errors[0].sigma,
                "reused": mean_and_its_error([error.reused for error in errors]),
                "left_out": mean_and_its_error([error.left_out for error in errors]),
            }
            for errors in zip(*pictures, strict=True)
        ],
    }


def _packs(options: argparse.Namespace) -> list[Any]:
    """The candidates of the packs named; one that cannot be loaded becomes a candidate that fails so."""
    import _candidates
    from _measure import attempt

    settings: dict[str, dict[str, Any]] = {}
    for node, name, value in options.set:
        settings.setdefault(node, {})[name] = value
    found, failed = [], []
    for folder in options.pack:

        def load(folder: Path = folder) -> None:
            found.extend(_candidates.of_pack(folder, settings))

        failure = attempt(load)
        if failure:

            def fail(_inputs: dict[str, Any], failure: str = failure) -> dict[str, Any]:
                raise RuntimeError(failure)

            failed.append(_candidates.Candidate(folder.name, "", fail))
    unknown = settings.keys() - {each.name for each in found}
    if unknown and not failed:
        known = ", ".join(each.name for each in found) or "none, as no --pack is given"
        raise SystemExit(
            f"--set names {', '.join(sorted(unknown))}, but the packs' nodes that patch a MODEL are: {known}."
        )
    return [*found, *failed]


def _setting(text: str) -> tuple[str, str, Any]:
    """Node, input and value of NODE.input=JSON."""
    place, _, value = text.partition("=")
    node, _, name = place.rpartition(".")
    try:
        return node, name, json.loads(value)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not NODE.input=JSON, where a text has double quotes: {error}"
        ) from error


def _document(options: argparse.Namespace, subject: str) -> dict[str, Any]:
    from _measure import machine

    return {
        "benchmark": f"peers {options.what}",
        "subject": subject,
        "machine": machine(options.device),
    }


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py bench peers", description=__doc__.split("\n\n")[0])
    what = parser.add_subparsers(dest="what", required=True)
    speed = what.add_parser("speed", help="seconds, on a paper's architecture with random weights")
    speed.add_argument("--model", choices=("sd15", "lcm", "sdxl", "pixart_alpha"), default="sd15")
    speed.add_argument("--size", type=positive, help="pixels a side; default: the paper's")
    _host.add_timing_options(speed)
    error = what.add_parser("error", help="what pictures lose at the same work")
    error.add_argument("--model", choices=("embedded", "random"), default="embedded", help="random: to try it out")
    # In fp32 ComfyUI's EasyCache fails on flow models: it adds to the latent in place, which then is no copy.
    error.add_argument("--dtype", choices=_host.DTYPES, default="bf16", help="what the denoiser computes in")
    reuse = what.add_parser("reuse", help="what a step errs with the deep branch reused, and left out")
    for each in (error, reuse):
        each.add_argument("--pictures", type=positive, default=24, help="how many prompts, one seed each")
    for each in (speed, error):
        each.add_argument("--steps", type=positive, help="default: the model's")
        each.add_argument("--pack", type=Path, action="append", default=[], help="a folder with another node pack")
        each.add_argument(
            "--set", type=_setting, action="append", default=[], metavar="NODE.input=JSON", help="for the packs' nodes"
        )
    for each in (speed, error, reuse):
        _host.add_options(each)
        _host.add_json_option(each)
    return parser


if __name__ == "__main__":
    main()
