"""The real canvas in a real browser: what the tests and tools/screenshots.py drive."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from playwright.sync_api import BrowserContext, Page, Playwright

from environment import cache_folder
from host import Server, serving
from pack import comfyui_path
from workflows import MODELS

TEST_NODES = Path(__file__).resolve().parent
IN_PAGE = TEST_NODES / "page.js"
READY = "() => (window.app?.isGraphReady ?? window.app?.graph) && app.extensionManager?.spinner === false"
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # or the template browser opens
    "Comfy.Workflow.Persist": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--force-color-profile=srgb"]

numbers = itertools.count(1)

Prompt = dict[str, dict[str, Any]]


class NoBrowser(RuntimeError):
    """There is no Chromium on this machine."""


def chromium() -> str:
    """The path of an installed Chromium; on CI, where tests must not be skipped, it is installed if missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found:
        return found
    if os.environ.get("CI", "").lower() != "true":
        raise NoBrowser("There is no Chromium on this machine (Debian and Ubuntu: apt install chromium).")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], check=True)
    return shutil.which("chromium") or "chromium"


def frontend(version: str) -> list[str]:
    """The server's flags for another release of the frontend than its ComfyUI asks for; fetched into the cache once."""
    folder = cache_folder() / "frontends" / version
    if not folder.exists():
        partial = folder.with_name(f"{version}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial)]
        subprocess.run([*install, f"comfyui-frontend-package=={version}"], check=True)
        partial.rename(folder)
    return ["--front-end-root", str(folder / "comfyui_frontend_package" / "static")]


@contextlib.contextmanager
def serving_test_nodes(*flags: str) -> Iterator[Server]:
    """A ComfyUI with this pack, the nodes under tests/web/custom_nodes, and every file that a shipped workflow names.

    `flags` go to ComfyUI. The models are empty (here they are chosen, not loaded), the picture is ComfyUI's own.
    """
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for name, (kind, _) in MODELS.items():
            (models / kind).mkdir(parents=True, exist_ok=True)
            (models / kind / name).touch()
        places = {
            "models": {"base_path": str(models), **{kind: kind for kind, _ in MODELS.values()}},
            "tests": {"base_path": str(TEST_NODES), "custom_nodes": "custom_nodes"},
        }
        paths = Path(folder) / "paths.yaml"
        paths.write_text(json.dumps(places), encoding="utf-8")  # JSON is YAML
        pictures = ("--input-directory", str(comfyui_path() / "input"))
        with serving("--cpu", "--extra-model-paths-config", str(paths), *pictures, *flags) as server:
            yield server


def open_browser(playwright: Playwright, profile: Path, **options: Any) -> BrowserContext:
    options = {"viewport": {"width": 1400, "height": 900}, **options}
    return playwright.chromium.launch_persistent_context(
        str(profile), executable_path=chromium(), args=FLAGS, **options
    )


class Complaints:
    """Console errors and warnings of a page, split into the pack's own and those the stock frontend always makes."""

    OWN = ("/extensions/postdiff/", "extension 'postdiff.")

    def __init__(self, page: Page, url: str):
        self.url, self.own, self.uncaught = url, [], []
        page.on("console", self._on_console)
        page.on("pageerror", self._on_page_error)
        page.on("response", self._on_response)

    def _on_console(self, message: Any) -> None:
        text = f"{(message.location or {}).get('url', '')} {message.text}"
        if "/docs/" in text and "404" in text:
            return  # the frontend looks for a translation of a help page first
        if message.type in ("error", "warning") and any(mark in text for mark in self.OWN):
            self.own.append(f"{message.type}: {text}")

    def _on_page_error(self, error: Any) -> None:
        (self.own if self.OWN[0] in (error.stack or "") else self.uncaught).append(error.stack or str(error))

    def _on_response(self, response: Any) -> None:
        path = urlparse(response.url).path
        if response.status >= 400 and self.OWN[0] in path and "/docs/" not in path:
            self.own.append(f"HTTP {response.status} {path}")

    def all(self) -> list[str]:
        return self.own + self.uncaught

    def clear(self) -> None:
        self.own.clear()
        self.uncaught.clear()


class Canvas:
    """A page with the canvas on it. Node ids are execution ids: "7", in a subgraph "4:7"."""

    def __init__(self, page: Page, server: Server, *, nodes_2: bool):
        self.page, self.server, self.nodes_2 = page, server, nodes_2
        self.complaints = Complaints(page, server.url)

    @classmethod
    def open(cls, context: BrowserContext, server: Server, *, nodes_2: bool, **settings: Any) -> Canvas:
        wished = {**SETTINGS, "Comfy.VueNodes.Enabled": nodes_2, **settings}
        context.request.post(f"{server.url}/settings", data=wished)  # the server keeps them, for every browser
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.add_init_script("localStorage.clear()")
        page.add_init_script(path=IN_PAGE)
        canvas = cls(page, server, nodes_2=nodes_2)
        page.bring_to_front()  # in the background it would not get ready
        page.goto(server.url, wait_until="domcontentloaded")
        canvas.wait_until(READY, timeout=120_000)
        return canvas

    def js(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def call(self, name: str, *arguments: Any) -> Any:
        """A function of page.js."""
        return self.js("([name, given]) => window.postdiffTest[name](...given)", [name, arguments])

    def wait_until(self, script: str, argument: Any = None, timeout: float = 60_000) -> None:
        self.page.wait_for_function(script, arg=argument, timeout=timeout, polling=50)

    def wait_for(self, name: str, *arguments: Any, value: Any = True) -> None:
        """Wait until a function of page.js gives `value`."""
        self.wait_until("([name, given, value]) => postdiffTest[name](...given) === value", [name, arguments, value])

    def command(self, name: str) -> None:
        self.js("name => app.extensionManager.command.execute(name)", name)

    def load(self, prompt: Prompt) -> None:
        """Put a graph in API form on the canvas, as a workflow of its own."""
        self._load("app.loadApiJson(graph, name)", prompt, len(prompt), f"test {next(numbers)}")
        self.call("spread")

    def load_workflow(self, workflow: dict[str, Any], name: str) -> None:
        """Put a graph as the canvas saves it on the canvas, as opening its file does."""
        self._load("app.loadGraphData(graph, true, true, name)", workflow, len(workflow["nodes"]), name)

    def _load(self, call: str, graph: dict[str, Any], nodes: int, name: str) -> None:
        self.page.bring_to_front()  # a page in the background draws nothing
        self.js(f"([graph, name]) => {{ {call}; }}", [graph, name])
        self.wait_for("isOpen", name, nodes)

    def open_tab(self, name: str) -> None:
        """Go through the open workflows until this one is on view."""
        for _ in range(self.call("tabs")):
            if self.call("tab") == name:
                return
            self.command("Workspace.PreviousOpenedWorkflow")
        raise AssertionError(f"{name} is not open")

    def fit_view(self) -> None:
        self.command("Comfy.Canvas.FitView")
        self.page.wait_for_timeout(1000)  # the view glides there

    def prompt(self) -> Prompt:
        """The graph in API form, as the canvas would queue it."""
        return self.js("async () => (await app.graphToPrompt()).output")

    def workflow(self) -> dict[str, Any]:
        return self.js("async () => (await app.graphToPrompt()).workflow")

    def queue(self) -> None:
        self.js("() => { app.queuePrompt(0, 1); }")

    def run(self) -> str:
        """Queue the graph and wait for its end: success, error or interrupted."""
        self.call("listenForEnds", 1)
        self.queue()
        return self.wait_for_end()

    def wait_for_end(self) -> str:
        self.wait_until("() => postdiffTest.end", timeout=240_000)
        return self.js("() => postdiffTest.end")

    def set(self, node: str, **values: Any) -> None:
        for name, value in values.items():
            self.call("set", node, name, value)

    def increase(self, node: str, widget: str) -> None:
        """Click the arrow or the plus of a number on a node that is on view."""
        if self.nodes_2:
            row = self.page.locator(f"[data-node-id='{node}'] [data-testid=node-widget]", has_text=widget)
            row.locator("button").last.click()
        else:
            self.page.mouse.click(*self.call("arrow", node, widget))

    def click_empty_place(self) -> None:
        self.page.mouse.click(700, 870)

    def into_subgraph(self, *nodes: str) -> str:
        """Convert nodes into a subgraph as its menu entry does; its execution id."""
        self.call("select", nodes)
        self.command("Comfy.Graph.ConvertToSubgraph")
        self.wait_until("() => postdiffTest.subgraph()")
        return self.call("subgraph")

    def steps(self, node: str) -> list[dict[str, str]]:
        """The steps that a node's timeline shows, in the words of postdiff_core's Step.document()."""
        return self.call("steps", node)

    def wait_for_steps(self, node: str, expected: list[dict[str, str]], timeout: float = 30_000) -> None:
        """Wait until a node's timeline shows these steps; the error says what it shows instead."""
        tries = timeout / 50
        while (shown := self.steps(node)) != expected and tries > 0:
            self.page.wait_for_timeout(50)
            tries -= 1
        assert shown == expected

    def text(self, node: str, part: str = "") -> str:
        """What a timeline, or its `status`, `notes` or `legend`, says; on view or not."""
        return self.call("text", node, part)

    def wait_for_text(self, node: str, part: str, text: str) -> None:
        self.wait_until("([node, part, text]) => postdiffTest.text(node, part).includes(text)", [node, part, text])

    def wait_for_state(self, node: str, state: str) -> None:
        """Wait until a node's timeline, on view or not, is an estimate, running or measured."""
        self.wait_for("state", node, value=state)

    def wait_for_mark(self, node: str, *, shown: bool) -> None:
        """Wait until a step is marked as running, or none is."""
        self.wait_for("isMarked", node, value=shown)

    def show(self, node: str, zoom: float = 1.0) -> None:
        """Bring a node to the middle of the page and wait until its timeline has come to rest there."""
        self.call("show", node, zoom)
        before = None
        for _ in range(50):
            self.page.wait_for_timeout(100)
            now = (self.box(node), self.node_box(node))
            if now == before:
                return
            before = now

    def box(self, node: str, part: str = "") -> dict[str, float]:
        """Where a timeline, or a part of it, lies on the page."""
        return self.call("box", node, part)

    def node_box(self, node: str) -> dict[str, float]:
        """Where a node lies on the page."""
        return self.call("nodeBox", node)

    def contrast(self, node: str, part: str, colour: str = "fill") -> float:
        """WCAG contrast of a part's colour with the timeline's ground."""
        return self.call("contrast", node, part, colour)
