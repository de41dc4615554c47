"""Real pictures with and without PostDiff: the same prompts and seeds through a real ComfyUI, measured.

Queues the shipped workflow, in which the stock KSampler and PostDiffKSampler stand side by side.
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import api_form
from arguments import natural, positive
from host import Event, PromptError, Run, Server, serving
from pack import ROOT

WORKFLOW = ROOT / "workflows" / "embedded_model_side_by_side.json"
PROMPTS = (
    "noto red apple",
    "fluent crab",
    "noto lemon on a blue background",
    "fluent dog and ufo",
    "noto hamburger",
    "noto smiling face with sunglasses",
)
COLUMNS = {"stock": "KSampler", "postdiff": "PostDiffKSampler"}
REPORT = "postdiff.report"

Prompt = dict[str, Any]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass
class Row:
    """One prompt, drawn by both samplers; `seconds` and `images` by column."""

    prompt: str
    seconds: dict[str, float]
    images: dict[str, Image.Image]
    report: Event

    @property
    def speedup(self) -> float:
        return self.seconds["stock"] / self.seconds["postdiff"]

    def share(self, lane: str, state: str) -> float:
        """Share of PostDiff's steps that are in a state (deep: reuse, say)."""
        plan = self.report["plan"]
        return sum(step[lane] == state for step in plan) / len(plan)


class SideBySide:
    """The shipped workflow in API form, and where in it the demo turns its knobs."""

    def __init__(self, api: Prompt):
        self.api = api
        self.samplers = {column: self._only(kind) for column, kind in COLUMNS.items()}
        saves = [name for name, node in api.items() if node["class_type"] == "SaveImage"]
        self.saves = {
            column: next(save for save in saves if sampler in self._upstream(save))
            for column, sampler in self.samplers.items()
        }

    def _only(self, kind: str) -> str:
        (name,) = (name for name, node in self.api.items() if node["class_type"] == kind)
        return name

    def _upstream(self, name: str) -> set[str]:
        sources = {value[0] for value in self.api[name]["inputs"].values() if isinstance(value, list)}
        return sources.union(*(self._upstream(source) for source in sources))

    def with_settings(self, prompt: str | None = None, **settings: Any) -> Prompt:
        """A copy with both samplers' settings and, if given, the positive prompt replaced."""
        api = copy.deepcopy(self.api)
        for sampler in self.samplers.values():
            api[sampler]["inputs"].update(settings)
            if prompt is not None:
                api[api[sampler]["inputs"]["positive"][0]]["inputs"]["text"] = prompt
        return api


class Progress:
    """One bar over every denoising step of every run."""

    def __init__(self, samplers: Sequence[str], steps: int, runs: int):
        self.samplers, self.steps, self.started = samplers, steps, 0
        self.bar = tqdm(total=len(samplers) * steps * runs, unit="step", desc="warming up")

    def on_event(self, kind: str, data: Event) -> None:
        if data.get("node") not in self.samplers:
            return
        if kind == "executing":
            self.started += 1
        elif kind == "progress":
            self.bar.n = (self.started - 1) * self.steps + round(self.steps * data["value"] / data["max"])
            self.bar.refresh()


def measure(server: Server, graph: SideBySide, prompt: str, seed: int, steps: int, progress: Progress) -> Row:
    """One prompt through both samplers of the graph."""
    run = server.run(graph.with_settings(prompt, seed=seed, steps=steps), progress.on_event)
    seconds = run.node_seconds()
    pictures = run.images()
    return Row(
        prompt,
        {column: seconds[sampler] for column, sampler in graph.samplers.items()},
        {column: server.fetch(pictures[save][0]) for column, save in graph.saves.items()},
        report_of(run),
    )


def report_of(run: Run) -> Event:
    reports = run.reports(REPORT)
    if not reports:
        raise PromptError(f"The run sent no {REPORT}.", {})
    return reports[-1]["report"]


def table(rows: Sequence[Row]) -> str:
    """Seconds, speed-up, multiply-accumulates and what the plan did, a line per prompt and one for all."""
    head = ("prompt", "stock s", "PostDiff s", "speed-up", "stock GMACs", "PostDiff GMACs", "less work")
    head += ("low-res", "cached", "unguided")
    lines = [head, *(line(row.prompt, [row]) for row in rows), line("all", rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(cells, widths, strict=True)) for cells in lines)
    )


def line(name: str, rows: Sequence[Row]) -> tuple[str, ...]:
    stock, postdiff = (sum(row.seconds[column] for row in rows) for column in COLUMNS)
    macs_stock, macs = (counted(row.report["totals"][key] for row in rows) for key in ("macs_stock", "macs"))
    shares = (("stage", "low"), ("deep", "reuse"), ("cfg", "off"))
    return (
        name,
        f"{stock:.2f}",
        f"{postdiff:.2f}",
        f"{stock / postdiff:.2f}x",
        f"{macs_stock / 1e9:.1f}" if macs_stock else "-",
        f"{macs / 1e9:.1f}" if macs else "-",
        f"{macs_stock / macs:.2f}x" if macs and macs_stock else "-",
        *(f"{sum(row.share(*share) for row in rows) / len(rows):.0%}" for share in shares),
    )


def counted(numbers: Iterable[int | None]) -> int | None:
    """Their sum; None if one of them could not be counted (a note says why)."""
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)


def picture(rows: Sequence[Row]) -> Image.Image:
    """Rows of prompts: the stock picture beside PostDiff's, each with its seconds."""
    side = max(image.width for row in rows for image in row.images.values())
    margin, caption = side // 16, side // 8
    row_height = caption + side + caption
    sheet = Image.new("RGB", (margin + len(COLUMNS) * (side + margin), caption + len(rows) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = (ImageFont.load_default(size) for size in (side // 13, side // 16))

    def write(left: int, top: int, text: str, font: Font, colour: str = "black") -> None:
        """One line of text, in the middle of a band of the caption's height."""
        draw.text((left, top + caption // 2), text, colour, font, anchor="lm")

    for column, (key, title) in enumerate(COLUMNS.items()):
        left = margin + column * (side + margin)
        write(left, 0, title, large)
        for number, row in enumerate(rows):
            top = caption + number * row_height
            if column == 0:
                write(left, top, row.prompt, large)
            sheet.paste(row.images[key], (left, top + caption))
            speedup = f", {row.speedup:.2f}x as fast" if key == "postdiff" else ""
            write(left, top + caption + side, f"{row.seconds[key]:.2f} s{speedup}", small, "dimgray")
    return sheet


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py demo", description=__doc__)
    parser.add_argument("--prompt", action="append", help="a prompt (repeatable; default: six of them)")
    parser.add_argument("--steps", type=positive, default=20, help="denoising steps (default: %(default)s)")
    parser.add_argument("--seed", type=natural, default=1, help="the seed of every picture (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("postdiff-demo.png"), help="picture file (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def end_with_children(*_: object) -> None:
    """On SIGTERM, end the server too: even one that is only just being started and that nobody holds yet."""
    for child in psutil.Process().children(recursive=True):
        child.terminate()
    sys.exit("Terminated.")


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, end_with_children)
    prompts = list(dict.fromkeys(options.prompt or PROMPTS))  # the server would not run the same one twice
    # On a CPU the model is too small to gain from more, and times vary less.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with serving("--preview-method", "none") as server:
        graph = SideBySide(api_form.load(WORKFLOW, server.get("/object_info")))
        progress = Progress(list(graph.samplers.values()), options.steps, runs=1 + len(prompts))
        measure(server, graph, prompts[0], options.seed + 1, options.steps, progress)  # loads the model; not counted
        rows = []
        for prompt in prompts:
            progress.bar.set_description(prompt)
            rows.append(measure(server, graph, prompt, options.seed, options.steps, progress))
        progress.bar.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    picture(rows).save(options.out)
    notes = dict.fromkeys(note for row in rows for note in row.report["notes"])
    summary = f"{options.steps} steps, seed {options.seed}. Pictures: {options.out.resolve()}"
    print("", table(rows), "", *notes, summary, sep="\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (PromptError, RuntimeError, ValueError) as error:
        sys.exit(f"The demo failed: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
