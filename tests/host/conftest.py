import pytest

import host


@pytest.fixture(scope="session")
def server():
    """One real ComfyUI server with this pack, shared by every test that only queues prompts."""
    with host.serving("--cpu") as running:
        yield running
