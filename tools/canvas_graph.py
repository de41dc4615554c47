"""A graph as the canvas saves it, written down node by node in columns: what tools/workflows.py lays out with it.

Slots, widgets and defaults come from /object_info; the caller gives links, the values that differ, and places.
"""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

from api_form import ALWAYS, ObjectInfo, companions, is_widget, options_of, specs_of

# Heights that both render modes need: a widget and a line of text in Nodes 2.0; any on the canvas, which has also a row
# for what follows a seed; a picture and the name of a pack other than ComfyUI's own, below the node, in Nodes 2.0.
SLOT, WIDGET, LINE, ROW, MULTILINE, PICTURE, FOOTER, PADDING = 20, 28, 36, 24, 70, 232, 24, 14
NOTE_LINE, NOTE_CHARACTER, NOTE_ENTRY = 15, 5.2, 6
TITLE, GAP, MARGIN, GROUP_TITLE = 30, 20, 10, 40
COLUMN_GAP, GROUP_GAP = 32, 8
TIMELINE = {"PostDiffKSampler": 119, "MixedResolutionKSampler": 119}
LANE = {kind: 97 for kind in ("MixedResolutionPatch", "DeepCachePatch", "CrossAttnCachePatch", "CFGCutoff")}
PICTURES = ("SaveImage", "PreviewImage", "LoadImage", "MaskPreview", "PostDiffReport")
# Too tall for a small window, so written lower than it gets in Nodes 2.0, and anywhere once it shows its picture.
GROWING = {"PostDiffCalibrate": 780}
NOTE = "MarkdownNote"
STOCK = "comfy-core"


@dataclass(frozen=True)
class Output:
    """One output of a placed node."""

    node: Node
    slot: int


@dataclass
class Node:
    """A placed node. `node["MODEL"]` is its output of that name."""

    id: int
    kind: str
    title: str
    box: tuple[int, int, int, int]  # x, y, width, height; the title bar lies above y
    values: list[Any]
    slots: list[tuple[str, str]]  # name and type of each input that is not a widget, and of each widget that is linked
    outputs: list[tuple[str, str]]
    properties: dict[str, Any]
    sources: dict[str, Output] = field(default_factory=dict)
    widgets: tuple[str, ...] = ()  # the inputs that are widgets
    colours: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Output:
        names = [each for each, _ in self.outputs]
        if name not in names:
            raise KeyError(f"{self.kind} has no output {name!r}, but {', '.join(names)}.")
        return Output(self, names.index(name))


class Graph:
    """Nodes in columns, links and groups; `document()` is the workflow file's content.

    `models` names, per model file, its folder under models/ and its address: the canvas offers the download to whoever
    lacks the file (no address: none).
    """

    def __init__(self, name: str, object_info: ObjectInfo, models: dict[str, tuple[str, str]]):
        self.name, self.object_info, self.models = name, object_info, models
        self.nodes: list[Node] = []
        self.groups: list[dict[str, Any]] = []

    def column(self, x: int, width: int, y: int = 0) -> Column:
        return Column(self, x, width, y)

    def place(self, kind: str, box: tuple[int, int, int, int], title: str, **inputs: Any) -> Node:
        """Add a node. An Output given for an input becomes a link, anything else a widget's value.

        Raises KeyError for a node or an input that the host does not have, ValueError for a widget without a value.
        """
        info = self.object_info[kind]
        specs = dict(specs_of(info))
        unknown = inputs.keys() - specs.keys()
        if unknown:
            raise KeyError(f"{kind} has no input {unknown.pop()!r}, but {', '.join(specs)}.")
        sources = {name: given for name, given in inputs.items() if isinstance(given, Output)}
        widgets = tuple(name for name, spec in specs.items() if is_widget(spec))
        values: list[Any] = []
        for name in widgets:
            given = inputs[name] if name in inputs.keys() - sources else default_of(kind, name, specs[name])
            values += [given, *companions(name, specs[name])]
        node = Node(
            id=len(self.nodes) + 1,
            kind=kind,
            title=title,
            box=box,
            values=values,
            slots=[
                *((name, spec[0]) for name, spec in specs.items() if name not in widgets),
                *((name, specs[name][0]) for name in widgets if name in sources),
            ],
            outputs=list(zip(info["output_name"], info["output"], strict=True)),
            properties={"cnr_id": pack_of(info), "Node name for S&R": kind},
            sources=sources,
            widgets=widgets,
        )
        wanted = [
            {"name": value, "url": url, "directory": folder}
            for value in values
            if isinstance(value, str) and value in self.models
            for folder, url in [self.models[value]]
            if url
        ]
        if wanted:
            node.properties["models"] = wanted
        self.nodes.append(node)
        return node

    def note(self, text: str, box: tuple[int, int, int, int], title: str) -> Node:
        node = Node(len(self.nodes) + 1, NOTE, title, box, [text], [], [], {})
        node.colours = {"color": "#432", "bgcolor": "#653"}
        self.nodes.append(node)
        return node

    def group(self, title: str, colour: str, *nodes: Node) -> None:
        """A coloured frame around nodes."""
        left = min(node.box[0] for node in nodes) - MARGIN
        top = min(node.box[1] for node in nodes) - TITLE - GROUP_TITLE
        right = max(node.box[0] + node.box[2] for node in nodes) + MARGIN
        bottom = max(node.box[1] + node.box[3] for node in nodes) + MARGIN
        bounding = [left, top, right - left, bottom - top]
        frame = {"id": len(self.groups) + 1, "title": title, "bounding": bounding, "color": colour}
        self.groups.append({**frame, "font_size": 24, "flags": {}})

    def document(self) -> dict[str, Any]:
        links = [
            [source.node.id, source.slot, node.id, slot, source.node.outputs[source.slot][1]]
            for node in self.nodes
            for slot, (name, _) in enumerate(node.slots)
            if (source := node.sources.get(name))
        ]
        numbered = [[number, *link] for number, link in enumerate(links, start=1)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"postdiff/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(numbered),
            "nodes": [describe(node, numbered) for node in self.nodes],
            "links": numbered,
            "groups": self.groups,
            "config": {},
            "extra": {},
            "version": 0.4,
        }


class Column:
    """A place for nodes one below the other."""

    def __init__(self, graph: Graph, x: int, width: int, y: int):
        self.graph, self.x, self.width, self.y = graph, x, width, y

    @property
    def right(self) -> int:
        """Where a column beside this one begins."""
        return self.x + self.width + COLUMN_GAP

    def beside(self, width: int) -> Column:
        """A column at the top of the graph, as near as nodes of one group are."""
        return self.graph.column(self.x + self.width + GAP, width)

    def add(self, kind: str, title: str = "", **inputs: Any) -> Node:
        box = self._next(height_of(kind, self.graph.object_info[kind]))
        return self.graph.place(kind, box, title, **inputs)

    def note(self, text: str, title: str = "Read me") -> Node:
        text = unwrapped(text)
        return self.graph.note(text, self._next(height_of_note(text, self.width)), title)

    def begin_group(self) -> None:
        """Leave room for the frame of a group that ends here and of one that begins with the next node."""
        self.y += MARGIN + GROUP_GAP + GROUP_TITLE - GAP

    def _next(self, height: int) -> tuple[int, int, int, int]:
        box = (self.x, self.y, self.width, height)
        self.y += height + TITLE + GAP
        return box


def describe(node: Node, links: list[list[Any]]) -> dict[str, Any]:
    incoming = {link[4]: link[0] for link in links if link[3] == node.id}
    outgoing: dict[int, list[int]] = {}
    for link in links:
        if link[1] == node.id:
            outgoing.setdefault(link[2], []).append(link[0])
    x, y, width, height = node.box
    written = {
        "id": node.id,
        "type": node.kind,
        "pos": [x, y],
        "size": [width, height],
        "flags": {},
        "order": node.id - 1,
        "mode": ALWAYS,
        "inputs": [
            {"name": name, "type": kind, "link": incoming.get(slot)}
            | ({"widget": {"name": name}} if name in node.widgets else {})
            for slot, (name, kind) in enumerate(node.slots)
        ],
        "outputs": [
            {"name": name, "type": kind, "links": outgoing.get(slot, []), "slot_index": slot}
            for slot, (name, kind) in enumerate(node.outputs)
        ],
        "properties": node.properties,
        "widgets_values": node.values,
    }
    return written | ({"title": node.title} if node.title else {}) | node.colours


def height_of(kind: str, info: dict[str, Any]) -> int:
    """Room for a node: slots, widgets, and what it shows below them."""
    if kind in GROWING:
        return GROWING[kind]
    specs = specs_of(info)
    widgets = [(name, spec) for name, spec in specs if is_widget(spec)]
    texts = sum(bool(options_of(spec).get("multiline")) for _, spec in widgets)
    lines = sum(spec[0] == "STRING" for _, spec in widgets) - texts
    choices = len(widgets) - texts - lines
    followers = sum(len(companions(name, spec)) for name, spec in widgets)
    rows = max(choices * WIDGET + lines * LINE, (choices + lines + followers) * ROW)
    slots = max(len(specs) - len(widgets), len(info["output"]), 1)
    shown = TIMELINE.get(kind, LANE.get(kind, 0)) + (PICTURE if kind in PICTURES else 0)
    footer = 0 if pack_of(info) == STOCK else FOOTER
    return PADDING + slots * SLOT + rows + texts * MULTILINE + shown + footer


def unwrapped(markdown: str) -> str:
    """Markdown with each paragraph and list entry on one line."""
    return re.sub(r"(?<!\n)\n *(?!\n|- )", " ", markdown.strip())


def height_of_note(markdown: str, width: int) -> int:
    shown = re.sub(r"\]\([^)]*\)", "", markdown).split("\n")  # links without their addresses
    rows = [math.ceil(max(1, len(line)) * NOTE_CHARACTER / (width - 30)) for line in shown]
    entries = sum(line.startswith("- ") for line in shown)
    return 50 + NOTE_LINE * sum(rows) + NOTE_ENTRY * entries


def default_of(kind: str, name: str, spec: list[Any]) -> Any:
    options = options_of(spec)
    if "default" in options:
        return options["default"]
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    if choices:
        return choices[0]
    if spec[0] == "STRING":
        return ""
    raise ValueError(f"{kind} needs a value for {name!r}.")


def pack_of(info: dict[str, Any]) -> str:
    """The registry's name of the pack that a node comes from, by which the canvas offers to install it."""
    module = info["python_module"]
    return module.removeprefix("custom_nodes.") if module.startswith("custom_nodes.") else STOCK
