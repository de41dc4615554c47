"""The calibration workflow in the real server: the search, the wires, and the preset that is offered afterwards."""

import copy
import json

import pytest

import api_form
import host
from pack import ROOT

GRAPH = ROOT / "workflows" / "calibrate_embedded_model.json"
SMALL = {"prompts": "noto red apple\nfluent crab", "steps": "6", "width": 128, "height": 128}


def node_of(api, kind):
    (found,) = (name for name, node in api.items() if node["class_type"] == kind)
    return found


def offered_presets(server):
    _, options = server.get("/object_info/PostDiffKSampler")["PostDiffKSampler"]["input"]["required"]["preset"]
    return options["options"]


@pytest.fixture(scope="module")
def api(server):
    api = api_form.load(GRAPH, server.get("/object_info"))
    api[node_of(api, "PostDiffCalibrate")]["inputs"] |= SMALL
    api["results"] = {
        "class_type": "PreviewAny",
        "inputs": {"source": [node_of(api, "PostDiffCalibrate"), 9]},
        "_meta": {"title": "results"},
    }
    return api


@pytest.fixture(scope="module")
def finished(server, api):
    return server.run(copy.deepcopy(api))


def results(run):
    (text,) = (each["output"]["text"] for each in run.reports("executed") if each["node"] == "results")
    return json.loads(text[0])


def test_the_calibrated_preset_runs_through_the_wires_and_is_offered_from_then_on(server, api, finished):
    name = api[node_of(api, "PostDiffCalibrate")]["inputs"]["preset_name"]
    assert offered_presets(server)[-2:] == ["off", name]
    chosen = results(finished)["chosen"]
    plan = finished.reports("postdiff.report")[-1]["report"]["plan"]
    assert len(plan) == chosen["steps"]
    assert any(step["deep"] == "reuse" for step in plan) == (chosen["interval"] > 1)
    assert any(step["cfg"] == "off" for step in plan) == (chosen["start_percent"] < 1)


def test_the_node_shows_its_picture_and_its_progress(server, api, finished):
    calibrate = node_of(api, "PostDiffCalibrate")
    (picture,) = finished.images()[calibrate]
    assert server.fetch(picture).size[0] == 1200
    values = [
        data["nodes"][calibrate]["value"] for data in finished.reports("progress_state") if calibrate in data["nodes"]
    ]
    assert values == sorted(values) and len(set(values)) > 3


def test_a_preset_that_is_not_there_is_refused_by_name_with_the_remedy(server, api):
    prompt = copy.deepcopy(api)
    prompt[node_of(api, "PostDiffKSampler")]["inputs"] |= {"preset": "never saved", "steps": 6}
    del prompt[node_of(api, "PostDiffCalibrate")], prompt["results"]  # or the server would run these alone
    with pytest.raises(host.PromptError, match=r"'never saved'.*PostDiff Calibrate"):
        server.run(prompt)


def test_queued_again_an_unfinished_search_goes_on_and_a_finished_one_is_remembered(server, api):
    prompt = copy.deepcopy(api)
    calibrate = node_of(prompt, "PostDiffCalibrate")
    unfinished = {"prompts": "noto lemon", "seeds": 1, "minutes": 0.0, "preset_name": "unfinished"}
    prompt[calibrate]["inputs"] |= unfinished

    def pictures():
        return sum(row["pictures"] for row in results(server.run(copy.deepcopy(prompt)))["rows"])

    assert pictures() < pictures()
    prompt[calibrate]["inputs"]["minutes"] = 10.0
    assert results(server.run(copy.deepcopy(prompt)))["complete"]
    server.run(copy.deepcopy(prompt))  # finds out that it is complete
    remembered = server.run(copy.deepcopy(prompt))
    assert calibrate in {node for data in remembered.reports("execution_cached") for node in data["nodes"]}
