"""Events reach the node that the user sees."""

import sys
from types import SimpleNamespace

import pytest
from comfy_execution import progress
from comfy_execution.graph import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext

from postdiff.nodes.events import CanvasEvents, show_text


@pytest.fixture
def sent(monkeypatch):
    """What a server would send, as (event or text, node)."""
    events = []
    server = SimpleNamespace(
        client_id="browser",
        send_sync=lambda event, content, client: events.append((event, content["node"], content["sampler_node"])),
        send_progress_text=lambda text, node, client: events.append((text, node)),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    return events


def test_what_a_loop_added_to_the_graph_is_shown_in_the_node_that_the_loop_names(sent, monkeypatch):
    prompt = DynamicPrompt({})
    prompt.add_ephemeral_node("loop.0.2", {}, "loop", "k9")
    monkeypatch.setattr(progress, "global_progress_registry", progress.ProgressRegistry("a prompt", prompt))
    with CurrentNodeContext("a prompt", "loop.0.2"):
        CanvasEvents("loop.0.2").on_step(1)
        CanvasEvents("patch").on_step(2)
        show_text("loop.0.2", "a line")
    assert sent == [("postdiff.step", "k9", "k9"), ("postdiff.step", "patch", "k9"), ("a line", "k9")]


def test_a_prompt_that_no_browser_queued_is_shown_in_none(sent, monkeypatch):
    monkeypatch.setattr(sys.modules["server"].PromptServer.instance, "client_id", None)
    with CurrentNodeContext("a prompt", "1"):
        CanvasEvents("1").on_step(0)
        show_text("1", "a line")
    assert sent == []


def test_outside_a_prompt_nothing_is_sent(sent):
    CanvasEvents("1").on_step(0)
    assert sent == []
