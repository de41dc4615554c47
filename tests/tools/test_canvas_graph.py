import itertools

import pytest

import api_form
from canvas_graph import Graph

OBJECT_INFO = {
    "Loader": {
        "input": {"required": {"name": [["a.safetensors"], {}]}},
        "output": ["MODEL", "CLIP"],
        "output_name": ["MODEL", "CLIP"],
        "python_module": "nodes",
    },
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "preset": ["COMBO", {"options": ["auto", "off"]}],
                "size": ["INT", {}],
            },
            "optional": {"clip": ["CLIP"]},
        },
        "output": ["LATENT"],
        "output_name": ["LATENT"],
        "python_module": "custom_nodes.postdiff",
    },
}
MODELS = {"a.safetensors": ("checkpoints", "https://example.org/a.safetensors"), "b.safetensors": ("loras", "")}


@pytest.fixture
def graph():
    return Graph("test", OBJECT_INFO, MODELS)


def test_what_is_written_node_by_node_is_what_the_server_would_run(graph):
    column = graph.column(0, 300)
    loader = column.add("Loader", name="b.safetensors")
    sampler = column.add("Sampler", "S", model=loader["MODEL"], clip=loader["CLIP"], seed=7, size=64)
    column.note("Read this.")
    graph.group("Both", "#fff", loader, sampler)
    links = {"model": ["1", 0], "clip": ["1", 1]}
    assert api_form.to_api(graph.document(), OBJECT_INFO) == {
        "1": {"class_type": "Loader", "inputs": {"name": "b.safetensors"}, "_meta": {"title": "Loader"}},
        "2": {
            "class_type": "Sampler",
            "inputs": {"seed": 7, "preset": "auto", "size": 64, **links},
            "_meta": {"title": "S"},
        },
    }


def test_nodes_of_a_column_do_not_touch_and_a_group_holds_its_nodes(graph):
    column = graph.column(100, 300, 50)
    nodes = [column.add("Loader"), column.note("word " * 200), column.add("Loader")]
    graph.group("All", "#fff", *nodes)
    boxes = [node.box for node in nodes]
    for (_, y, _, height), (_, below, *_) in itertools.pairwise(boxes):
        assert below - (y + height) > 34  # a title bar lies above each node
    left, top, width, height = graph.document()["groups"][0]["bounding"]
    assert left < 100 and left + width > 400
    assert top < boxes[0][1] - 34 and top + height > boxes[-1][1] + boxes[-1][3]


def test_a_download_is_offered_where_an_address_is_known(graph):
    column = graph.column(0, 300)
    known, unknown = column.add("Loader"), column.add("Loader", name="b.safetensors")
    wanted = {"name": "a.safetensors", "url": "https://example.org/a.safetensors", "directory": "checkpoints"}
    assert known.properties["models"] == [wanted]
    assert "models" not in unknown.properties


def test_the_pack_of_each_node_is_named_for_whoever_lacks_it(graph):
    assert graph.column(0, 1).add("Loader").properties["cnr_id"] == "comfy-core"
    assert graph.column(0, 1).add("Sampler", size=1).properties["cnr_id"] == "postdiff"


def test_a_paragraph_of_a_note_is_one_line(graph):
    note = graph.column(0, 300).note("\n# Title\n\nfirst\nline\n\n- one\n- two\n  more\n")
    assert note.values == ["# Title\n\nfirst line\n\n- one\n- two more"]


def test_what_cannot_be_placed_is_named(graph):
    column = graph.column(0, 300)
    with pytest.raises(KeyError, match="Loader has no input 'file', but name"):
        column.add("Loader", file="a")
    with pytest.raises(KeyError, match="Loader has no output 'VAE', but MODEL, CLIP"):
        column.add("Loader")["VAE"]
    with pytest.raises(ValueError, match="Sampler needs a value for 'size'"):
        column.add("Sampler")
