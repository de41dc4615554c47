"""One server and one browser for all browser tests; one page per render mode, so that a test costs about a second."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))

from browser import Canvas, NoBrowser, chromium, frontend, open_browser, serving_test_nodes
from playwright.sync_api import BrowserContext, sync_playwright

from host import Server


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    try:
        chromium()
    except NoBrowser as missing:
        pytest.skip(str(missing))
    with sync_playwright() as playwright:
        context = open_browser(playwright, tmp_path_factory.mktemp("profile"))
        yield context
        context.close()


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, browser: BrowserContext) -> Iterator[Server]:
    version = request.config.getoption("--frontend")
    with serving_test_nodes(*(frontend(version) if version else ())) as server:
        assert "IMPORT FAILED" not in server.log.read_text(errors="replace"), server.last_words()
        yield server


@pytest.fixture(scope="session", params=[False, True], ids=["canvas", "nodes-2"])
def page_in_mode(request: pytest.FixtureRequest, browser: BrowserContext, server: Server) -> Iterator[Canvas]:
    canvas = Canvas.open(browser, server, nodes_2=request.param)
    yield canvas
    canvas.page.close()


@pytest.fixture
def canvas(page_in_mode: Canvas) -> Iterator[Canvas]:
    """The page of one render mode; the test fails if the pack complained on the console meanwhile."""
    page_in_mode.complaints.clear()
    yield page_in_mode
    assert page_in_mode.complaints.all() == []
