"""Pictures of the real canvas: nodes for the help pages, and the shipped graph after a run for the README.

python dev.py screenshots          everything
python dev.py screenshots help     only those of the help pages, into web/docs/images
python dev.py screenshots graph    only the graph, into screenshots/, in both render modes and themes
"""

from __future__ import annotations

import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import BrowserContext, FloatRect, sync_playwright
from tqdm import tqdm

import api_form
import demo
from host import Server
from pack import ROOT

sys.path.append(str(ROOT / "tests" / "web"))

from browser import Canvas, Prompt, open_browser, serving_test_nodes

VIEW = {"width": 1280, "height": 800}
GRAPH_AREA = {"x": 60, "y": 105, "width": 1160, "height": 640}  # without tabs and toolbars
THUMBNAIL = (640, 353)
HELP = ROOT / "web" / "docs" / "images"
GRAPHS = ROOT / "screenshots"
SEEDS = {"KSampler": "seed", "PostDiffKSampler": "seed", "RandomNoise": "noise_seed"}
WORKFLOW = ROOT / "workflows" / "embedded_model_side_by_side.json"
RESULTS = {"PostDiffReport": "embedded_model_sampler_custom_advanced", "PostDiffCalibrate": "calibrate_embedded_model"}
RESULT_WIDTH, EMOJI_SIDE = 900, 128  # pixels


def main(arguments: list[str]) -> None:
    kinds = {"help": picture_help, "graph": picture_graph, "thumbnails": picture_thumbnails}
    wished = arguments or list(kinds)
    unknown = set(wished) - set(kinds)
    if unknown:
        sys.exit(f"There is no {unknown.pop()!r} to picture; choose of {', '.join(kinds)}.")
    with serving_test_nodes() as server, sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = open_browser(playwright, Path(profile), viewport=VIEW, device_scale_factor=1.5)
        try:
            for kind in wished:
                kinds[kind](context, server)
        finally:
            context.close()


def picture_help(context: BrowserContext, server: Server) -> None:
    """Every page's picture."""
    HELP.mkdir(parents=True, exist_ok=True)
    picture_timelines(context, server)
    picture_results(server)
    picture_emoji(server)


def picture_timelines(context: BrowserContext, server: Server) -> None:
    """One picture per node with a timeline: what the paper's settings for SD1.5 look like in 20 steps."""
    canvas = Canvas.open(context, server, nodes_2=True)
    canvas.load(paper_settings())
    for node, described in tqdm(paper_settings().items(), desc="Timelines"):
        kind = described["class_type"]
        if kind in ("PostDiffTestModel", "KSampler"):
            continue
        canvas.show(node)
        box = canvas.box(node)
        width, height = box["right"] - box["left"], box["bottom"] - box["top"]
        clip: FloatRect = {"x": box["left"], "y": box["top"], "width": width, "height": height}
        canvas.page.screenshot(path=HELP / f"{kind}.png", clip=clip)
    canvas.page.close()


def picture_results(server: Server) -> None:
    """What the nodes that draw a picture show in a run of a shipped graph; the calibration takes a minute or two."""
    for kind, graph in tqdm(RESULTS.items(), desc="Results"):
        prompt = api_form.load(WORKFLOW.with_stem(graph), server.get("/object_info"))
        (node,) = (name for name, each in prompt.items() if each["class_type"] == kind)
        (shown,) = server.run(prompt).images()[node]
        picture = server.fetch(shown)
        picture.thumbnail((RESULT_WIDTH, picture.height), Image.Resampling.LANCZOS)
        picture.save(HELP / f"{kind}.png")


def picture_emoji(server: Server) -> None:
    """What the embedded model draws in a stock run, in a row."""
    graph = demo.SideBySide(api_form.load(WORKFLOW, server.get("/object_info")))
    strip = Image.new("RGB", (len(demo.PROMPTS) * EMOJI_SIDE, EMOJI_SIDE), "white")
    for number, prompt in enumerate(tqdm(demo.PROMPTS, desc="Emoji")):
        (saved,) = server.run(graph.with_settings(prompt, seed=1)).images()[graph.saves["stock"]]
        picture = server.fetch(saved).resize((EMOJI_SIDE, EMOJI_SIDE), Image.Resampling.LANCZOS)
        strip.paste(picture, (number * EMOJI_SIDE, 0))
    strip.save(HELP / "PostDiffEmbeddedModel.png")


def paper_settings() -> Prompt:
    sampling = {"seed": 1, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sampling |= {"positive": ["1", 1], "negative": ["1", 1], "latent_image": ["1", 2]}
    mixed = {"low_res_scale": 0.5, "low_res_until": 0.5, "upscale_method": "bilinear"}
    deep = {"interval": 2, "depth": 2, "start_percent": 0.0, "end_percent": 1.0}
    late = {"start_percent": 0.75}
    nodes = {
        "1": (
            "PostDiffTestModel",
            {"family": "sd15", "seconds_per_step": 0.0, "fail_at": -1, "smallest": 0, "fresh": 0},
        ),
        "2": ("DeepCachePatch", {"model": ["1", 0], **deep}),
        "3": ("CrossAttnCachePatch", {"model": ["2", 0], **late, "mode": "cond"}),
        "4": ("CFGCutoff", {"model": ["3", 0], **late}),
        "5": ("MixedResolutionPatch", {"model": ["4", 0], **mixed}),
        "6": ("KSampler", {"model": ["5", 0], **sampling}),
        "7": ("PostDiffKSampler", {"model": ["1", 0], **sampling, "preset": "sd15"}),
        "8": ("MixedResolutionKSampler", {"model": ["1", 0], **sampling, **mixed}),
    }
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}


def picture_graph(context: BrowserContext, server: Server) -> None:
    """The side-by-side graph after a run, in both render modes and both themes."""
    GRAPHS.mkdir(exist_ok=True)
    modes = [(nodes_2, palette) for nodes_2 in (False, True) for palette in ("dark", "light")]
    for number, (nodes_2, palette) in enumerate(tqdm(modes, desc="Graphs")):
        canvas = Canvas.open(context, server, nodes_2=nodes_2, **{"Comfy.ColorPalette": palette})
        if number == 0:
            show_after_run(canvas, WORKFLOW, seed=len(modes) + 1)  # a server's first run pays for warming up
        show_after_run(canvas, WORKFLOW, seed=number + 1)
        name = f"{'nodes-2' if nodes_2 else 'canvas'}-{palette}.png"
        canvas.page.screenshot(path=GRAPHS / name)
        canvas.page.close()


def picture_thumbnails(context: BrowserContext, server: Server) -> None:
    """What each shipped graph looks like; after a run where the model comes with it, else with its estimate."""
    legible = {"Comfy.ColorPalette": "dark", "LiteGraph.Canvas.MinFontSizeForLOD": 0}
    canvas = Canvas.open(context, server, nodes_2=False, **legible)
    for seed, path in enumerate(tqdm(sorted(WORKFLOW.parent.glob("*.json")), desc="Thumbnails"), start=11):
        show_after_run(canvas, path, seed)
        whole = Image.open(BytesIO(canvas.page.screenshot(clip=GRAPH_AREA))).convert("RGB")
        whole.resize(THUMBNAIL, Image.Resampling.LANCZOS).save(path.with_suffix(".jpg"), quality=85)
    canvas.page.close()


def show_after_run(canvas: Canvas, path: Path, seed: int) -> None:
    """Load a graph, run it if it brings its model along and takes seconds, and bring all of it into view."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    canvas.load_workflow(workflow, path.stem)
    kinds = {str(node["id"]): node["type"] for node in workflow["nodes"]}
    if "PostDiffEmbeddedModel" in kinds.values() and "PostDiffCalibrate" not in kinds.values():
        for node, kind in kinds.items():
            if kind in SEEDS:
                canvas.set(node, **{SEEDS[kind]: seed})  # or the server would have the picture already
        if canvas.run() != "success":
            raise RuntimeError(f"{path.name} did not run:\n{canvas.server.last_words()}")
        banner = canvas.page.get_by_text("Job completed").first  # over the graph, a little late
        banner.wait_for()
        banner.wait_for(state="hidden")
    canvas.fit_view()
    canvas.page.wait_for_timeout(3000)  # the pictures arrive


if __name__ == "__main__":
    main(sys.argv[1:])
