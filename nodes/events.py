"""What a run does, as events for the canvas."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ..postdiff_core.presets import Choice
from ..postdiff_core.schedule import Plan


class CanvasEvents:
    """Sends a run's plan, steps and report to one node on the canvas (an Observer of postdiff_core/run.py).

    Addressed to the browser that queued the prompt; `sampler_node` is the node in which the run happens.
    """

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id

    def show_choice(self, preset: str, choice: Choice) -> None:
        """What a preset gave, for estimates of later runs."""
        settings = {name: dataclasses.asdict(technique) for name, technique in choice.settings.asked.items()}
        self._send("postdiff.preset", preset=preset, settings=settings, recognised=choice.recognised)

    def on_plan(self, plan: Plan, notes: Sequence[str]) -> None:
        steps = [step.document() for step in plan.steps]
        self._send("postdiff.plan", plan=steps, scale=plan.low_res_scale, notes=list(notes))

    def on_step(self, index: int) -> None:
        self._send("postdiff.step", step=index)

    def on_report(self, report: dict[str, Any]) -> None:
        self._send("postdiff.report", report=report)

    def _send(self, event: str, **content: Any) -> None:
        server, context = _server(), get_executing_context()
        if server is None or context is None:
            return
        nodes = {"node": _shown(self.node_id), "sampler_node": _shown(context.node_id)}
        address = {**nodes, "prompt_id": context.prompt_id}
        server.send_sync(event, {**address, **content}, server.client_id)


def show_text(node_id: str | None, line: str) -> None:
    """Show a line on a node while it runs; does nothing outside a prompt."""
    server = _server()
    if node_id is not None and server is not None:
        server.send_progress_text(line, _shown(node_id), server.client_id)


def observer_for(node_id: str | None) -> CanvasEvents | None:
    """The observer of a node on the canvas; None outside a prompt."""
    return None if node_id is None else CanvasEvents(node_id)


def _shown(node_id: str) -> str:
    """The canvas node that stands for `node_id`, which another node (a loop) may have added to the graph."""
    return get_progress_state().dynprompt.get_display_node_id(node_id)


def _server() -> Any:
    """The running server; None without one, and for a prompt that no browser queued: it would tell every browser."""
    from server import PromptServer  # only there once a server is being started

    server = getattr(PromptServer, "instance", None)
    return None if server is None or server.client_id is None else server
