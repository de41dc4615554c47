"""The shipped preset and every technique keep the quality of pictures that was measured for the shipped weights."""

import os
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import avg_pool2d

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _quality_gate as gate
from _quality_scores import subject_and_examiner
from _quality_settings import ALONE_PAIRS, FULL, GATE_PAIRS, HARMFUL, PRESET

ENOUGH_TO_SEE_HARM = 64  # pairs

pytestmark = pytest.mark.timeout(1800)  # hundreds of pictures


@pytest.fixture(scope="module", autouse=True)
def both_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drawing():
    return subject_and_examiner()


@pytest.fixture(scope="module")
def record(drawing):
    """None if the shipped weights are newer than the record."""
    try:
        return gate.recorded(drawing[0])
    except gate.NoRecord:
        return None


@pytest.fixture(scope="module")
def full(drawing):
    return gate.drawn(drawing[0], FULL, range(ALONE_PAIRS))


@pytest.fixture(scope="module")
def full_right(drawing, record):
    """As recorded; without a record drawn now, which takes minutes more."""
    if record is not None:
        return gate.recorded_right(record)
    return gate.right(*drawing, gate.drawn(drawing[0], FULL, range(GATE_PAIRS)))


def test_the_recorded_full_run_is_the_one_this_host_draws(drawing, full, full_right):
    assert gate.right(*drawing, full).tolist() == list(full_right)[:ALONE_PAIRS], gate.REMEDY


@pytest.fixture(scope="module")
def preset(drawing):
    return gate.drawn(drawing[0], PRESET, range(GATE_PAIRS))


def test_the_shipped_preset_loses_no_more_than_three_points_of_prompt_agreement(drawing, full_right, preset):
    assert gate.agreement_lost(full_right, gate.right(*drawing, preset)) is None


def test_the_shipped_preset_keeps_its_detail(record, preset):
    if record is None:
        pytest.skip(f"The shipped weights have no record. {gate.REMEDY}")
    assert gate.detail_lost(record, gate.mean_detail(preset)) is None


def test_a_harmful_setting_does_not_pass(drawing, full_right):
    pictures = gate.drawn(drawing[0], HARMFUL, range(ENOUGH_TO_SEE_HARM))
    assert gate.agreement_lost(full_right[:ENOUGH_TO_SEE_HARM], gate.right(*drawing, pictures)) is not None


def test_pictures_drawn_soft_do_not_pass(record, preset):
    """Though they show the same: agreement and error look at crops of 64 pixels."""
    if record is None:
        pytest.skip(f"The shipped weights have no record. {gate.REMEDY}")
    soft = avg_pool2d(preset.movedim(-1, 1), 3, stride=1, padding=1, count_include_pad=False).movedim(1, -1)
    assert "of the detail on record" in gate.detail_lost(record, gate.mean_detail(soft))


def test_no_techniques_picture_error_has_grown_by_a_fifth(drawing, record, full):
    if record is None:
        pytest.skip(f"The shipped weights have no record. {gate.REMEDY}")
    assert not gate.grown_errors(record, gate.errors(*drawing, full))


def test_an_error_that_grew_by_more_than_a_fifth_is_named():
    record = {"errors": {"deep cache": 0.10, "guidance cut-off": 0.10}}
    assert gate.grown_errors(record, {"deep cache": 0.119, "guidance cut-off": 0.119}) == []
    (told,) = gate.grown_errors(record, {"deep cache": 0.121, "guidance cut-off": 0.119})
    assert "deep cache" in told


def test_a_loss_of_more_than_three_points_is_told():
    full = [True] * 100
    assert gate.agreement_lost(full, [True] * 97 + [False] * 3) is None
    assert "4.0 points" in gate.agreement_lost(full, [True] * 96 + [False] * 4)


def test_a_record_says_which_pairs_the_full_run_draws_right():
    assert gate.recorded_right({"full_right": "101"}) == [True, False, True]


def test_a_record_of_other_weights_is_no_record(drawing, tmp_path):
    other = tmp_path / "record.json"
    other.write_text('{"pairs": "of other weights"}')
    for file in (other, tmp_path / "missing.json"):
        with pytest.raises(gate.NoRecord, match="bench quality --only gate"):
            gate.recorded(drawing[0], file)
