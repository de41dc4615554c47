"""The picture of a report, in its pixels."""

import numpy as np
import pytest
from PIL import ImageColor

import tiny_models
from postdiff.postdiff_core import patch, report_picture, schedule


@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_the_bars_of_low_resolution_steps_are_as_narrow_as_their_latent(beta):
    model = patch.add(tiny_models.small_unet(), schedule.MixedResolution(beta, 0.5))
    tiny_models.stock_sample(model, steps=4)
    report = patch.carried_by(model).last_report
    pixels = np.asarray(report_picture.draw(report))
    legend = 80  # at the bottom, in the same colours
    is_bar = (pixels[:-legend] == ImageColor.getrgb(report_picture.COMPUTED)).all(axis=-1).any(axis=0)
    widths = []
    for index in range(4):
        left, right = report_picture._columns(index, 4)
        widths.append(is_bar[int(left) : int(right) + 1].sum())
    low, full = widths[0], widths[-1]
    assert [step["stage"] for step in report["plan"]] == ["low", "low", "full", "full"]
    assert widths == [low, low, full, full] and low / full == pytest.approx(beta, abs=0.02)
