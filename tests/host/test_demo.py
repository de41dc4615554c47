"""The demo, through the real server."""

import json
import re
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image, ImageChops

import api_form
import demo
import pack
from postdiff.embedded_model.training.captions import Prompt
from postdiff.embedded_model.training.config import BACKGROUNDS

PROMPT, STEPS, SEED = "noto red apple", 6, 7
SIDE = 256


def demo_command(*arguments: str) -> list[str]:
    return [sys.executable, str(pack.ROOT / "dev.py"), "--comfyui", str(pack.comfyui_path()), "demo", *arguments]


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory) -> tuple[str, Image.Image]:
    """What the demo printed, and its picture."""
    out = tmp_path_factory.mktemp("a folder") / "pictures" / "demo.png"
    arguments = ("--prompt", PROMPT, "--steps", str(STEPS), "--seed", str(SEED), "--out", str(out))
    done = subprocess.run(demo_command(*arguments), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{PROMPT}: 100%" in done.stderr
    return done.stdout, Image.open(out)


@pytest.fixture(scope="module")
def graph(server) -> demo.SideBySide:
    return demo.SideBySide(api_form.load(demo.WORKFLOW, server.get("/object_info")))


def tiles(sheet: Image.Image) -> list[Image.Image]:
    """The pictures of the sheet's first row."""
    margin, caption = SIDE // 16, SIDE // 8
    lefts = (margin, margin + SIDE + margin)
    return [sheet.crop((left, 2 * caption, left + SIDE, 2 * caption + SIDE)) for left in lefts]


def same(first: Image.Image, second: Image.Image) -> bool:
    return ImageChops.difference(first, second).getbbox() is None


def test_the_demos_picture_holds_what_the_workflow_draws_for_its_prompt_and_seed(demonstrated, server, graph):
    _, sheet = demonstrated
    images = server.run(graph.with_settings(PROMPT, seed=SEED, steps=STEPS)).images()
    stock, postdiff = tiles(sheet)
    assert same(stock, server.fetch(images[graph.saves["stock"]][0]))
    assert same(postdiff, server.fetch(images[graph.saves["postdiff"]][0]))
    assert not same(stock, postdiff)


def test_the_demos_table_says_what_postdiff_saved(demonstrated):
    printed, _ = demonstrated
    _, row, total = printed.strip().splitlines()[:3]
    numbers = [float(number) for number in re.findall(r"(?<=\s)\d+(?:\.\d+)?", row)]
    stock, postdiff, speedup, stock_work, work, less_work, low_res, cached, unguided = numbers
    assert speedup == pytest.approx(stock / postdiff, rel=0.05)
    assert less_work == pytest.approx(stock_work / work, rel=0.05)
    assert less_work > 1.5
    assert all(0 < share < 100 for share in (low_res, cached, unguided))
    assert total.split()[1:] == row.removeprefix(PROMPT).split()


def test_the_demos_own_prompts_are_among_those_the_model_was_trained_on():
    trained = json.loads((pack.ROOT / "embedded_model" / "concepts.json").read_text(encoding="utf-8"))
    for prompt in map(Prompt.parse, demo.PROMPTS):
        assert all(prompt.style in str(trained[name]) for name in prompt.names)
        assert prompt.background in (None, *BACKGROUNDS)


def test_without_postdiff_both_sides_draw_the_same_picture(server, graph):
    api = graph.with_settings(PROMPT, seed=SEED, steps=STEPS)
    api[graph.samplers["postdiff"]]["inputs"]["preset"] = "off"
    images = server.run(api).images()
    stock, postdiff = (server.fetch(images[save][0]) for save in graph.saves.values())
    assert same(stock, postdiff)


def test_an_ended_demo_leaves_no_server_behind(tmp_path):
    with subprocess.Popen(demo_command("--out", str(tmp_path / "never.png")), stderr=subprocess.DEVNULL) as process:
        try:
            server = wait_for_server(psutil.Process(process.pid))
        finally:
            process.terminate()
        assert process.wait(timeout=60) != 0
    server.wait(timeout=60)
    assert not (tmp_path / "never.png").exists()


def wait_for_server(process: psutil.Process, seconds: float = 180) -> psutil.Process:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for child in process.children(recursive=True):
            if any(part.endswith("main.py") for part in child.cmdline()):
                return child
        time.sleep(0.1)
    raise TimeoutError("The demo started no server.")
