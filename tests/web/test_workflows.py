"""The shipped graphs in the browser: offered as templates, loaded without a missing node or an error of ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser import Canvas

import api_form
from host import Server
from pack import ROOT

HELP = ROOT / "web" / "docs"
GRAPHS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="module")
def object_info(server: Server) -> api_form.ObjectInfo:
    return server.get("/object_info")


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_a_shipped_graph_loads_with_nothing_missing_or_covered_and_is_queued_as_the_tests_run_it(
    canvas: Canvas, object_info: api_form.ObjectInfo, graph: Path
) -> None:
    canvas.load_workflow(json.loads(graph.read_text(encoding="utf-8")), graph.stem)
    assert canvas.call("unknownNodes") == []
    for node in canvas.call("nodesWithTimeline"):
        canvas.wait_until("(id) => postdiffTest.steps(id).length || postdiffTest.text(id).includes('run starts')", node)
        assert "estimate" in canvas.text(node, "status")
    assert canvas.call("nodesOnOthers") == []
    assert canvas.page.get_by_test_id("error-overlay").count() == 0  # ComfyUI's own: a model or picture is missing
    queued = {node: described["inputs"] for node, described in canvas.prompt().items()}
    assert queued == {node: each["inputs"] for node, each in api_form.load(graph, object_info).items()}


def test_every_shipped_graph_is_offered_as_a_template_with_a_thumbnail(canvas: Canvas, server: Server) -> None:
    offered = server.get("/workflow_templates")["postdiff"]
    assert sorted(offered) == [path.stem for path in GRAPHS]
    without = [path.stem for path in GRAPHS if not path.with_suffix(".jpg").is_file()]
    assert without == []


def test_every_help_page_leads_to_a_shipped_graph_and_every_graph_is_named_by_one() -> None:
    stems = {path.stem for path in GRAPHS}
    named = {page.stem: set(re.findall(r"`(\w+)`", page.read_text("utf-8"))) & stems for page in HELP.glob("*.md")}
    assert all(named.values()), named
    assert set().union(*named.values()) == stems


def test_from_the_template_browser_to_a_picture_in_three_clicks(canvas: Canvas) -> None:
    canvas.page.bring_to_front()
    canvas.page.get_by_role("button", name="Templates", exact=True).click()
    # The three: the pack, its first graph, Run.
    canvas.page.get_by_role("button", name="postdiff", exact=True).click()
    canvas.page.get_by_test_id("template-workflow-embedded_model_side_by_side").click()
    canvas.wait_until("() => postdiffTest.nodesWithTimeline().length > 0")
    canvas.call("listenForEnds", 1)
    canvas.page.get_by_test_id("queue-button").click()
    assert canvas.wait_for_end() == "success"
    canvas.wait_until("() => Object.values(app.nodeOutputs).filter(({ images }) => images?.length).length >= 2")
