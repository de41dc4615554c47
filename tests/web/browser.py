"""The real canvas in a real browser: what the tests and tools/screenshots.py drive."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from playwright.sync_api import BrowserContext, Locator, Page, Playwright

from host import Server, serving

TEST_NODES = Path(__file__).resolve().parent
READY = "() => window.app?.isGraphReady && app.extensionManager?.spinner === false"
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # or the template browser opens
    "Comfy.Workflow.Persist": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--force-color-profile=srgb"]

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


@contextlib.contextmanager
def serving_test_nodes() -> Iterator[Server]:
    """A ComfyUI with this pack and with the nodes under tests/web/custom_nodes."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "paths.yaml"
        paths.write_text(f"tests:\n  base_path: {json.dumps(str(TEST_NODES))}\n  custom_nodes: custom_nodes\n")
        with serving("--cpu", "--extra-model-paths-config", str(paths)) as server:
            yield server


def open_browser(playwright: Playwright, profile: Path, **options: Any) -> BrowserContext:
    options = {"viewport": {"width": 1400, "height": 900}, **options}
    return playwright.chromium.launch_persistent_context(
        str(profile), executable_path=chromium(), args=FLAGS, **options
    )


class Complaints:
    """Console errors and warnings of a page, split into the pack's own and those the stock frontend always makes."""

    OWN = ("/extensions/postdiff/", "extension 'PostDiff.")

    def __init__(self, page: Page, url: str):
        self.url, self.own, self.uncaught = url, [], []
        page.on("console", self._on_console)
        page.on("pageerror", self._on_page_error)
        page.on("response", self._on_response)

    def _on_console(self, message: Any) -> None:
        text = f"{(message.location or {}).get('url', '')} {message.text}"
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
        page.add_init_script("localStorage.clear()")
        canvas = cls(page, server, nodes_2=nodes_2)
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=90_000)
        return canvas

    def js(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def load(self, prompt: Prompt) -> None:
        """Put a graph in API form on the canvas."""
        self.js("prompt => app.loadApiJson(prompt, 'test.json')", prompt)
        self.page.wait_for_function("n => app.rootGraph.nodes.length === n", arg=len(prompt))

    def prompt(self) -> Prompt:
        """The graph in API form, as the canvas would queue it."""
        return self.js("async () => (await app.graphToPrompt()).output")

    def workflow(self) -> dict[str, Any]:
        return self.js("async () => (await app.graphToPrompt()).workflow")

    def command(self, name: str) -> None:
        self.js("name => app.extensionManager.command.execute(name)", name)

    def queue(self) -> None:
        self.js("() => app.queuePrompt(0, 1)")

    def run(self) -> str:
        """Queue the graph and wait for its end: success, error or interrupted."""
        self.listen_for_end()
        self.queue()
        return self.wait_for_end()

    def listen_for_end(self) -> None:
        self.js(
            """() => {
                window.postdiffTestEnd = null;
                for (const end of ["success", "error", "interrupted"])
                    app.api.addEventListener(`execution_${end}`, () => (window.postdiffTestEnd = end), { once: true });
            }"""
        )

    def wait_for_end(self) -> str:
        self.page.wait_for_function("() => window.postdiffTestEnd", timeout=60_000)
        return self.js("() => window.postdiffTestEnd")

    def wait_until(self, script: str, argument: Any = None, timeout: float = 20_000) -> None:
        self.page.wait_for_function(script, arg=argument, timeout=timeout)

    def set(self, node: str, **values: Any) -> None:
        """Set widgets as a user's click does: value and callback."""
        self.js(
            """([node, values]) => {
                const found = %s;
                for (const [name, value] of Object.entries(values)) {
                    const widget = found.widgets.find((each) => each.name === name);
                    widget.value = value;
                    widget.callback?.(value);
                }
            }"""
            % FIND_NODE,
            [node, values],
        )

    def timeline(self, node: str) -> Locator:
        """The timeline of a node, on view or not."""
        self.js("node => { %s.dataset.of = node; }" % ELEMENT, node)
        return self.page.locator(f"[data-testid=postdiff-timeline][data-of='{node}']")

    def element(self, node: str, part: str) -> Locator:
        return self.timeline(node).locator(part)

    def status(self, node: str) -> Locator:
        return self.element(node, "[data-testid=postdiff-status]")

    def notes(self, node: str) -> Locator:
        return self.element(node, "[data-testid=postdiff-notes]")

    def wait_for_state(self, node: str, state: str) -> None:
        """Wait until a node's timeline, on view or not, is an estimate, running or measured."""
        self.wait_until("([node, state]) => %s.dataset.state === state" % ELEMENT, [node, state])

    def is_shown(self, node: str) -> bool:
        return self.js("node => %s.isConnected" % ELEMENT, node)

    def steps(self, node: str) -> list[dict[str, str]]:
        """The steps that a node's timeline shows, in the words of postdiff_core's Step.document()."""
        return self.js(
            """(node) => [...%s.querySelectorAll('[data-step]')].map(
                ({ dataset: { stage, deep, xattn, cfg } }) => ({ stage, deep, xattn, cfg }))"""
            % ELEMENT,
            node,
        )

    def wait_for_steps(self, node: str, expected: list[dict[str, str]], timeout: float = 5000) -> None:
        """Wait until a node's timeline shows these steps; the error says what it shows instead."""
        deadline = timeout / 50
        while (shown := self.steps(node)) != expected and deadline > 0:
            self.page.wait_for_timeout(50)
            deadline -= 1
        assert shown == expected

    def collect_marks(self, node: str) -> None:
        """From now on, note each step that a node's timeline marks as running."""
        self.js(
            """(node) => {
                const element = %s;
                const seen = (window.postdiffTestMarks = []);
                new MutationObserver(() => {
                    const mark = element.querySelector(".now");
                    const step = mark && Math.round((parseFloat(mark.getAttribute("x")) / 100) * element.querySelectorAll("[data-step]").length);
                    if (mark && seen.at(-1) !== step) seen.push(step);
                }).observe(element, { childList: true, subtree: true });
            }"""
            % ELEMENT,
            node,
        )

    def collected_marks(self) -> list[int]:
        return self.js("() => window.postdiffTestMarks")

    def last_node(self) -> str:
        return self.js("() => String(app.rootGraph.nodes.at(-1).id)")

    def into_subgraph(self, *nodes: str) -> str:
        """Convert nodes into a subgraph as its menu entry does; its execution id."""
        self.js("ids => app.canvas.selectItems(ids.map((id) => app.rootGraph.getNodeById(Number(id))))", list(nodes))
        self.command("Comfy.Graph.ConvertToSubgraph")
        self.page.wait_for_function("() => app.rootGraph.nodes.some((node) => node.subgraph)")
        return self.js("() => String(app.rootGraph.nodes.find((node) => node.subgraph).id)")

    def show(self, node: str, zoom: float = 1.0) -> None:
        """Bring a node to the middle of the page."""
        self.js(
            """([node, zoom]) => {
                const { pos, size } = %s, { ds, canvas } = app.canvas, view = canvas.getBoundingClientRect();
                ds.scale = zoom;
                ds.offset[0] = view.width / 2 / zoom - pos[0] - size[0] / 2;
                ds.offset[1] = view.height / 2 / zoom - pos[1] - size[1] / 2;
                app.canvas.setDirty(true, true);
            }"""
            % FIND_NODE,
            [node, zoom],
        )
        self.wait_until_still(node)

    def wait_until_still(self, node: str) -> None:
        """Wait until a timeline has not moved for a while: the canvas places it a frame or more later."""
        before = None
        for _ in range(50):
            self.page.wait_for_timeout(100)
            now = (self.box(node), self.node_box(node))
            if now == before:
                return
            before = now

    def increase(self, node: str, widget: str) -> None:
        """Click the arrow or the plus of a number."""
        self.show(node)
        if self.nodes_2:
            self.page.locator(f"[data-node-id='{node}'] [data-testid=node-widget]", has_text=widget).locator("button").last.click()
            return
        x, y = self.js(
            """([node, name]) => {
                const { widgets, pos, size } = %s, { ds, canvas } = app.canvas, view = canvas.getBoundingClientRect();
                const widget = widgets.find((each) => each.name === name);
                return [view.left + (pos[0] + size[0] - 25 + ds.offset[0]) * ds.scale, view.top + (pos[1] + widget.y + 10 + ds.offset[1]) * ds.scale];
            }"""
            % FIND_NODE,
            [node, widget],
        )
        self.page.mouse.click(x, y)

    def click_empty_place(self) -> None:
        self.page.mouse.click(700, 870)

    def box(self, node: str, part: str = "") -> dict[str, float]:
        """Where a timeline, or a part of it, lies on the page."""
        return self.js(
            """([node, part]) => {
                const element = %s, { left, right, top, bottom } = (part ? element.querySelector(part) : element).getBoundingClientRect();
                return { left, right, top, bottom };
            }"""
            % ELEMENT,
            [node, part],
        )

    def node_box(self, node: str) -> dict[str, float]:
        """Where a node lies on the page."""
        return self.js(
            """(node) => {
                const shown = document.querySelector(`[data-node-id="${node}"]`);
                if (shown) { const { left, right, top, bottom } = shown.getBoundingClientRect(); return { left, right, top, bottom }; }
                const { pos, size } = %s, { ds, canvas } = app.canvas, view = canvas.getBoundingClientRect();
                const left = view.left + (pos[0] + ds.offset[0]) * ds.scale, top = view.top + (pos[1] + ds.offset[1]) * ds.scale;
                return { left, top, right: left + size[0] * ds.scale, bottom: top + size[1] * ds.scale };
            }"""
            % FIND_NODE,
            node,
        )

    def contrast(self, node: str, part: str, colour: str = "fill") -> float:
        """WCAG contrast of a part's colour with the timeline's background as painted."""
        return self.js(
            """([node, part, colour]) => {
                const element = %s;
                const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
                const over = (layers) => {
                    for (const layer of layers) { paint.fillStyle = layer; paint.fillRect(0, 0, 1, 1); }
                    return [...paint.getImageData(0, 0, 1, 1).data];
                };
                const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
                    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
                    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
                const ground = [getComputedStyle(document.body).backgroundColor, getComputedStyle(element).backgroundColor];
                const style = getComputedStyle(element.querySelector(part));
                const [dark, light] = [over(ground), over([...ground, style[colour]])].map(luminance).sort((a, b) => a - b);
                return (light + 0.05) / (dark + 0.05);
            }"""
            % ELEMENT,
            [node, part, colour],
        )


FIND_NODE = """(() => {
    let graph = app.rootGraph, found;
    for (const id of node.split(":")) { found = graph.getNodeById(id) ?? graph.getNodeById(Number(id)); graph = found?.subgraph; }
    return found;
})()"""
ELEMENT = f"{FIND_NODE}.widgets.find((each) => each.name === 'timeline').element"
