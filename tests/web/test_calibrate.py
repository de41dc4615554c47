"""The calibration node in the real canvas, in both render modes."""

from __future__ import annotations

import itertools

from browser import Canvas, Prompt

seeds = itertools.count(1)  # no picture of an earlier run is taken again
CALIBRATE = "2"


def graph() -> Prompt:
    """The embedded model, calibrated on a grid of two settings with one small picture each."""
    grid = {"steps": "3", "low_res_scale": "1", "low_res_until": "0", "interval": "1, 2"}
    grid |= {"deep_cache_start": "0", "start_percent": "1"}
    search = {"search": "own lists", **grid, "min_speedup": 1.0, "minutes": 5.0, "resume": False}
    sampling = {"sampler_name": "euler", "scheduler": "normal", "cfg": 3.0, "width": 64, "height": 64}
    pictures = {"prompts": "noto red apple", "negative": "", "first_seed": next(seeds), "seeds": 1}
    models = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    inputs = {**models, **pictures, **search, **sampling, "preset_name": "of the browser test"}
    return {
        "1": {"class_type": "PostDiffEmbeddedModel", "inputs": {}},
        CALIBRATE: {"class_type": "PostDiffCalibrate", "inputs": inputs},
    }


def test_the_outcome_is_shown_once_after_a_run_and_when_it_is_taken_from_the_cache(canvas: Canvas) -> None:
    prompt = graph()
    for _ in range(2):
        canvas.load(prompt)  # takes the live previews away
        canvas.call("show", CALIBRATE, 0.5)
        assert canvas.run() == "success"
        expected = canvas.call("outputPictures", CALIBRATE)
        assert len(expected) == 1 and min(expected[0]) > 64  # not a picture that was drawn
        canvas.wait_until("([id, size]) => postdiffTest.pictures(id).join() === size.join()", [CALIBRATE, expected])
        canvas.page.wait_for_timeout(1000)  # previews of nodes that begin are dropped after 0.4 s
        assert canvas.call("pictures", CALIBRATE) == expected
