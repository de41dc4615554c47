"""The shipped graphs in the browser: offered as templates, loaded without a missing node or an error of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import Canvas

from host import Server
from pack import ROOT

GRAPHS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
def test_a_shipped_graph_loads_with_every_node_known(canvas: Canvas, graph: Path) -> None:
    canvas.load_workflow(json.loads(graph.read_text(encoding="utf-8")), graph.stem)
    assert canvas.call("unknownNodes") == []
    for node in canvas.call("nodesWithTimeline"):
        canvas.wait_until("(node) => postdiffTest.steps(node).length || postdiffTest.text(node).includes('run')", node)


def test_every_shipped_graph_is_offered_as_a_template_with_a_thumbnail(canvas: Canvas, server: Server) -> None:
    offered = server.get("/workflow_templates")["postdiff"]
    assert sorted(offered) == [path.stem for path in GRAPHS]
    without = [path.stem for path in GRAPHS if not path.with_suffix(".jpg").is_file()]
    assert without == []


def test_from_the_template_browser_to_a_picture_in_three_clicks(canvas: Canvas) -> None:
    canvas.page.bring_to_front()
    canvas.command("Comfy.BrowseTemplates")
    canvas.page.get_by_role("button", name="postdiff", exact=True).click()
    canvas.page.get_by_test_id("template-workflow-embedded_model_side_by_side").click()
    canvas.wait_until("() => postdiffTest.nodesWithTimeline().length > 0")
    canvas.call("listenForEnd")
    canvas.page.get_by_test_id("queue-button").click()
    assert canvas.wait_for_end() == "success"
    canvas.wait_until("() => Object.values(app.nodeOutputs).filter(({ images }) => images?.length).length >= 2")
