"""The shipped graphs as they open: all of a graph is fitted into the window, and far out the canvas draws no text."""

from __future__ import annotations

import itertools
import json

import pytest

from pack import ROOT

GRAPHS = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "workflows").glob("*.json"))
}
FULL_HD, LAPTOP = (1920, 940), (1366, 650)  # what a browser leaves for the canvas
MIN_ZOOM = 8 / 14  # below, the canvas leaves texts out: its setting MinFontSizeForLOD over the size of its texts
TITLE, PADDING, SHARE = 30, 10, 0.75  # a node's title bar; around all nodes; of the window that a graph fills
Box = tuple[float, float, float, float]

every_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


@every_graph
def test_all_of_a_graph_is_legible_when_it_opens_on_a_full_hd_screen(graph):
    assert fitted_zoom(graph, FULL_HD) >= 0.6


@every_graph
def test_all_of_a_graph_is_legible_when_it_opens_on_a_small_laptop(graph):
    assert fitted_zoom(graph, LAPTOP) >= MIN_ZOOM


@every_graph
def test_no_node_of_a_graph_lies_on_another(graph):
    boxes = {f"{node['id']} {node['type']}": box_of(node) for node in graph["nodes"]}
    assert overlapping(boxes) == []


@every_graph
def test_no_frame_of_a_graph_lies_on_another_or_cuts_through_a_node(graph):
    frames = {group["title"]: corners(*group["bounding"]) for group in graph["groups"]}
    assert overlapping(frames) == []
    for node, (frame, bounds) in itertools.product(graph["nodes"], frames.items()):
        box = box_of(node)
        assert not overlap(box, bounds) or holds(bounds, box), (frame, node["type"])


def fitted_zoom(graph, window):
    """The zoom at which ComfyUI opens a template: litegraphService's fitView."""
    lefts, tops, rights, bottoms = zip(*map(box_of, graph["nodes"]), strict=True)
    sides = max(rights) - min(lefts), max(bottoms) - min(tops)
    return min(SHARE * most / (side + 2 * PADDING) for most, side in zip(window, sides, strict=True))


def box_of(node) -> Box:
    (x, y), (width, height) = node["pos"], node["size"]
    return corners(x, y - TITLE, width, height + TITLE)


def corners(x, y, width, height) -> Box:
    return x, y, x + width, y + height


def overlapping(boxes: dict[str, Box]):
    return [(one, other) for one, other in itertools.combinations(boxes, 2) if overlap(boxes[one], boxes[other])]


def overlap(one: Box, other: Box):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def holds(outer: Box, inner: Box):
    return outer[0] <= inner[0] and outer[1] <= inner[1] and outer[2] >= inner[2] and outer[3] >= inner[3]
