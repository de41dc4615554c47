"""PostDiff Report in the real canvas."""

from __future__ import annotations

from browser import Canvas, Prompt


def graph() -> Prompt:
    """A run with little to do, and its report with nothing behind it."""
    model = {"family": "sd15", "seconds_per_step": 0.0, "fail_at": -1, "smallest": 0, "fresh": 0}
    sampling = {"seed": 1, "steps": 4, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sampling |= {"positive": ["1", 1], "negative": ["1", 1], "latent_image": ["1", 2]}
    return {
        "1": {"class_type": "PostDiffTestModel", "inputs": model},
        "2": {"class_type": "PostDiffKSampler", "inputs": {"model": ["1", 0], **sampling, "preset": "auto"}},
        "3": {"class_type": "PostDiffReport", "inputs": {"model": ["2", 1], "latent": ["2", 0]}},
    }


def test_a_new_report_is_large_enough_to_be_read_and_shows_its_picture(canvas: Canvas) -> None:
    canvas.load(graph())
    width, height = canvas.js("() => [...postdiffTest.node('3').size]")
    assert width >= 500 and height >= 300
    assert canvas.run() == "success"
    canvas.wait_until("() => app.nodeOutputs['3']?.images?.length === 1")


def test_a_saved_size_of_a_report_is_kept_as_any_nodes_is(canvas: Canvas) -> None:
    """Older frontends scale a whole graph that moves to Nodes 2.0."""
    widths = "() => ['2', '3'].map((id) => postdiffTest.node(id).size[0])"
    canvas.load(graph())
    canvas.js("() => ['2', '3'].forEach((id) => postdiffTest.node(id).setSize([700, 420]))")
    saved = canvas.workflow()
    canvas.load_workflow(saved, "saved report")
    sampler, report = canvas.js(widths)
    assert sampler == report >= 700
