"""Write locales/en/nodeDefs.json from the nodes' own words; name what the other languages lack or have too much of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pack
from host import wait_for

FOLDER = pack.ROOT / "locales"


def main() -> int:
    pack.prepare_comfyui(cpu=True)
    english = from_schemas()
    write(FOLDER / "en" / "nodeDefs.json", english)
    complaints = [
        f"{path.parent.name}: {complaint}"
        for path in sorted(FOLDER.glob("*/nodeDefs.json"))
        for complaint in differences(english, json.loads(path.read_text(encoding="utf-8")))
    ]
    print("\n".join(complaints) or "Every language has every word.")
    return 1 if complaints else 0


def from_schemas() -> dict[str, Any]:
    """The words of every node, as ComfyUI's frontend looks them up."""
    extension = wait_for(pack.load_pack().comfy_entrypoint())
    schemas = [node.GET_SCHEMA() for node in wait_for(extension.get_node_list())]
    return {schema.node_id: words_of(schema) for schema in schemas}


def words_of(schema: Any) -> dict[str, Any]:
    inputs = {each.id: some(name=each.display_name or each.id, tooltip=each.tooltip) for each in schema.inputs}
    outputs = {
        str(slot): some(name=each.display_name or each.get_io_type(), tooltip=each.tooltip)
        for slot, each in enumerate(schema.outputs)
    }
    words = {"display_name": schema.display_name, "description": schema.description}
    return {**words, **some(inputs=inputs, outputs=outputs)}


def some(**words: Any) -> dict[str, Any]:
    return {name: value for name, value in words.items() if value}


def differences(expected: dict[str, Any], found: dict[str, Any], path: str = "") -> list[str]:
    """What `found` lacks or has too much of, by key."""
    complaints = [f"{path}{key} is missing" for key in expected.keys() - found.keys()]
    complaints += [f"{path}{key} is stale" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        if isinstance(expected[key], dict):
            complaints += differences(expected[key], found[key], f"{path}{key}.")
    return sorted(complaints)


def write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
