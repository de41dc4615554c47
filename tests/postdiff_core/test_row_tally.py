"""The rows of each step, as conditionings run and are left out. Whole runs: test_executed_work.py."""

from postdiff.postdiff_core.cost import RowCount
from postdiff.postdiff_core.row_tally import RowTally
from postdiff.postdiff_core.schedule import CFGCutoff, Settings, plan

PLAN = plan(Settings(cfg_cutoff=CFGCutoff(0.5)), 4, lambda fraction: round(4 * fraction))
GUIDED, LATER_GUIDED, UNGUIDED, LAST = PLAN.steps
SIGMA = 2.0


def evaluate(tally, step, *passes, left_out=()):
    tally.begin_evaluation()
    for uuids in passes:
        tally.ran(step, uuids)
    tally.left_out(step, left_out, SIGMA)


def test_a_pass_that_repeats_a_conditioning_counts_for_nothing():
    tally = RowTally(PLAN)
    evaluate(tally, GUIDED, ["positive", "negative"], ["positive"])
    assert tally.of(GUIDED) == RowCount(2, 2)


def test_only_what_would_have_run_at_this_noise_level_is_left_out():
    tally = RowTally(PLAN)
    begins_later, has_ended = {"timestep_start": 1.0}, {"timestep_end": 3.0}
    evaluate(tally, UNGUIDED, ["positive"], left_out=[{}, begins_later, has_ended, {"timestep_start": 3.0}])
    assert tally.of(UNGUIDED) == RowCount(1, 3)


def test_a_step_that_another_node_leaves_out_is_like_those_of_its_kind():
    tally = RowTally(PLAN)
    assert tally.of(GUIDED) == RowCount(1, 1)
    evaluate(tally, GUIDED, ["positive", "negative"])
    evaluate(tally, UNGUIDED, ["positive"], left_out=[{}])
    assert tally.of(LATER_GUIDED) == RowCount(2, 2) and tally.of(LAST) == RowCount(1, 2)


def test_of_several_evaluations_in_a_step_the_largest_counts():
    tally = RowTally(PLAN)
    evaluate(tally, GUIDED, ["positive", "negative"])
    evaluate(tally, GUIDED, ["positive"])
    assert tally.of(GUIDED) == RowCount(2, 2)
