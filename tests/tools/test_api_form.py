import pytest

import api_form

OBJECT_INFO = {
    "Source": {"input": {"required": {}}},
    "Sampler": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "sampler_name": [["euler", "lcm"], {}],
                "cfg": ["FLOAT", {"default": 8.0}],
                "text": ["STRING", {"forceInput": True}],
            },
            "optional": {"preset": ["COMBO", {"options": ["auto", "off"]}]},
        }
    },
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}], "scale": ["FLOAT", {}]}}},
}


def canvas(*nodes, links=()):
    return {"nodes": list(nodes), "links": list(links)}


def sampler(**changes):
    inputs = [{"name": "model", "type": "MODEL", "link": 1}, {"name": "text", "type": "STRING", "link": None}]
    values = [5, "randomize", "lcm", 1.5, "off"]
    return {"id": 2, "type": "Sampler", "mode": 0, "inputs": inputs, "widgets_values": values, **changes}


SOURCE = {"id": 1, "type": "Source", "mode": 0}
LINK = [1, 1, 0, 2, 0, "MODEL"]


def test_links_and_values_get_their_names_and_the_canvas_own_values_are_left_out():
    api = api_form.to_api(canvas(SOURCE, sampler(title="S"), links=[LINK]), OBJECT_INFO)
    expected = {"model": ["1", 0], "seed": 5, "sampler_name": "lcm", "cfg": 1.5, "preset": "off"}
    assert api["2"] == {"class_type": "Sampler", "inputs": expected, "_meta": {"title": "S"}}


def test_a_link_into_a_widget_overrides_its_value_and_keeps_the_others_in_place():
    inputs = [{"name": "cfg", "type": "FLOAT", "widget": {"name": "cfg"}, "link": 1}]
    api = api_form.to_api(canvas(SOURCE, sampler(inputs=inputs), links=[LINK]), OBJECT_INFO)
    assert api["2"]["inputs"] == {"seed": 5, "sampler_name": "lcm", "cfg": ["1", 0], "preset": "off"}


def test_an_upload_button_takes_a_place_among_the_values():
    node = {"id": 3, "type": "LoadImage", "mode": 0, "widgets_values": ["a.png", "image", 2.0]}
    assert api_form.to_api(canvas(node), OBJECT_INFO)["3"]["inputs"] == {"image": "a.png", "scale": 2.0}


def test_notes_are_left_out():
    note = {"id": 9, "type": "MarkdownNote", "mode": 0, "widgets_values": ["read me"]}
    assert list(api_form.to_api(canvas(SOURCE, note), OBJECT_INFO)) == ["1"]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"id": 4, "type": "Missing"}, r"Missing \(4\): the server knows no such node"),
        (sampler(mode=4), r"Sampler \(2\) is muted or bypassed"),
        (sampler(widgets_values=[5, "fixed", "lcm"]), r"Sampler \(2\) has no value for 'cfg'"),
    ],
)
def test_what_cannot_be_run_as_it_is_is_named(node, message):
    with pytest.raises(ValueError, match=message):
        api_form.to_api(canvas(SOURCE, node, links=[LINK]), OBJECT_INFO)
