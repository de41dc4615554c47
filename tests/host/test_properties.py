"""What holds of every graph: finite, of the right shape, repeatable, neutral when off, and nothing left behind."""

from __future__ import annotations

import math
import runpy
import shlex

import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, settings

import pack
from postdiff.postdiff_core import mixed_resolution
from random_graphs import Graph, NotRunnable, check, graphs

pytestmark = pytest.mark.timeout(3 * 60 * 60)
GRAPHS, GRAPHS_IN_FULL = 60, 500


def check_random_graphs(number: int, *, derandomize: bool, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    """Check that many graphs that the host can run; the exception tells how to run the one that fails."""

    @settings(
        max_examples=number,
        derandomize=derandomize,
        phases=[phase for phase in phases if phase is not Phase.explain],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs())
    def holds(graph: Graph) -> None:
        note(graph.command())
        try:
            check(graph)
        except NotRunnable:
            assume(False)

    holds()


def test_every_graph_is_finite_repeatable_and_leaves_nothing_behind(request):
    """The same graphs each time; with --full, other ones, and more. --graph runs a given one."""
    graph, full = request.config.getoption("--graph"), request.config.getoption("--full")
    if graph:
        check(Graph.from_json(graph))
    else:
        check_random_graphs(GRAPHS_IN_FULL if full else GRAPHS, derandomize=not full)


def given_to_pytest(arguments: list[str]) -> list[str]:
    """What `python dev.py test` with these arguments gives to pytest."""
    command = runpy.run_path(str(pack.ROOT / "tools" / "test.py"))
    return [command["from_root"](pack.ROOT, each) for each in arguments]


def test_a_failure_prints_a_graph_that_reproduces_it(monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(mixed_resolution, "_keep_outside_mask", lambda _guider, _sampling, x0, _switch: x0 * math.nan)
        with pytest.raises(AssertionError, match="not finite") as caught:
            check_random_graphs(GRAPHS, derandomize=True, phases=(Phase.generate,))
        (command,) = (said for said in caught.value.__notes__ if said.startswith("python dev.py test"))
        _, _, _, *arguments = shlex.split(command)
        option, document = given_to_pytest(arguments)[-2:]
        graph = Graph.from_json(document)
        assert option == "--graph"
        with pytest.raises(AssertionError, match="not finite"):
            check(graph)
    check(graph)
