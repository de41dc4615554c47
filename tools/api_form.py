"""A workflow as the canvas saves it, turned into the API form that the server runs.

Only what /object_info says about the nodes is used, so that the two forms cannot drift apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ObjectInfo = dict[str, dict[str, Any]]

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("Note", "MarkdownNote")
ALWAYS = 0  # LiteGraph's mode of a node that runs


def load(path: Path, object_info: ObjectInfo) -> dict[str, Any]:
    """The API form of the canvas workflow in a file. Raises ValueError that names the file."""
    try:
        return to_api(json.loads(path.read_text(encoding="utf-8")), object_info)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def to_api(workflow: dict[str, Any], object_info: ObjectInfo) -> dict[str, Any]:
    """`{node id: {"class_type", "inputs", "_meta"}}` from the canvas's nodes, links and widget values.

    Raises ValueError for what only the canvas can resolve: unknown nodes, muted or bypassed nodes, missing values.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    nodes = [node for node in workflow["nodes"] if node["type"] not in NOTES]
    return {str(node["id"]): _api_node(node, object_info, sources) for node in nodes}


def _api_node(node: dict[str, Any], object_info: ObjectInfo, sources: dict[int, list[Any]]) -> dict[str, Any]:
    kind, where = node["type"], f"{node['type']} ({node['id']})"
    if kind not in object_info:
        raise ValueError(f"{where}: the server knows no such node.")
    if node.get("mode", ALWAYS) != ALWAYS:
        raise ValueError(f"{where} is muted or bypassed; take it out of the workflow.")
    links = {slot["name"]: sources[slot["link"]] for slot in node.get("inputs", ()) if slot.get("link") is not None}
    values = iter(node.get("widgets_values") or ())
    inputs: dict[str, Any] = {}
    for name, spec in specs_of(object_info[kind]):
        if is_widget(spec):
            try:
                inputs[name] = next(values)
            except StopIteration:
                raise ValueError(f"{where} has no value for {name!r}.") from None
            for _ in companions(name, spec):
                next(values, None)
        if name in links:
            inputs[name] = links[name]
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": node.get("title", kind)}}


def specs_of(info: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Name and specification of every input, in the canvas's order."""
    groups = (info["input"].get("required", {}), info["input"].get("optional", {}))
    return [item for group in groups for item in group.items()]


def options_of(spec: list[Any]) -> dict[str, Any]:
    return spec[1] if len(spec) > 1 else {}


def is_widget(spec: list[Any]) -> bool:
    """Whether an input is set on the node itself (and so has its place in `widgets_values`)."""
    return (isinstance(spec[0], list) or spec[0] in WIDGET_TYPES) and not options_of(spec).get("forceInput")


def companions(name: str, spec: list[Any]) -> list[str]:
    """The values the canvas adds after this one: what happens to a seed after a run, an upload button."""
    options = options_of(spec)
    is_seed = spec[0] == "INT" and name in ("seed", "noise_seed")
    after_run = ["fixed"] if options.get("control_after_generate") or is_seed else []
    return after_run + (["image"] if options.get("image_upload") else [])
