"""The quality benchmark: same pairs for every setting, nothing drawn twice, figures that mean what they say."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _quality_encoder as encoder
import _quality_report as report
import quality
from _quality_runs import NODES, RUN_PAIRS, Runs, Shards
from _quality_scores import frechet_distance, likeness, subject_and_examiner
from _quality_settings import FULL, OTHER_SAMPLERS, PRESET, Setting, peer, postdiff, tables, with_sampler
from _quality_statistics import bootstrap, share_difference

FEW_STEPS = 4


@pytest.fixture(scope="module")
def real_subject():
    return subject_and_examiner()[0]


class Subject:
    """Draws pair numbers, and says so."""

    key, offset = "subject", 0.0

    def __init__(self, *, fail_at=None, failure=KeyboardInterrupt):
        self.drawn, self._fail_at, self._failure = [], fail_at, failure

    def draw(self, setting, pairs):
        if self._fail_at in pairs:
            raise self._failure(f"at {self._fail_at}")
        self.drawn += [pair for pair in pairs if setting != FULL]
        numbers = torch.tensor(list(pairs), dtype=torch.float32)
        return (numbers + self.offset)[:, None] @ torch.ones(1, 4)


class Scorebook:
    def score(self, setting, pairs): ...


def latents(runs, setting):
    shards = runs.shards(setting)
    return torch.cat([shards.read(pairs)["latents"] for pairs in shards.ranges()])


# Settings


def test_every_setting_is_one_that_its_nodes_take(real_subject):
    for table in tables().values():
        for setting in table.settings:
            node = NODES[setting.sampler[0]]
            declared = node.INPUT_TYPES()
            known = {*declared["required"], *declared.get("optional", {})}
            assert set(real_subject.inputs(setting, range(2))) <= known, setting.name


def test_names_tell_the_settings_of_a_table_apart():
    for table in tables().values():
        assert len({setting.name for setting in table.settings}) == len(table.settings)
        assert len({(setting.group, setting.key) for setting in table.settings}) == len(table.settings)
        assert table.settings[0] == FULL


def test_only_same_seed_pictures_are_compared_pixel_by_pixel():
    assert postdiff("", k=2, m=0.75).keeps_composition
    assert not postdiff("", beta=0.5, k=2).keeps_composition
    assert not postdiff("", k=2, steps=12).keeps_composition
    assert not PRESET.keeps_composition


# Runs


@pytest.mark.parametrize("sampler", [FULL.sampler, PRESET.sampler], ids=["stock", "preset"])
def test_pairs_drawn_together_are_the_pairs_drawn_alone(real_subject, sampler):
    setting = Setting("", "", sampler=sampler, steps=FEW_STEPS)
    together = real_subject.draw(setting, range(1, 4))
    alone = torch.cat([real_subject.draw(setting, range(pair, pair + 1)) for pair in range(1, 4)])
    assert torch.allclose(together, alone, atol=1e-3)
    assert not torch.allclose(together[0], together[1], atol=0.1)


@pytest.mark.parametrize("sampler_name", OTHER_SAMPLERS)
def test_a_sampler_that_adds_noise_draws_one_picture_at_a_time(real_subject, sampler_name):
    setting = replace(with_sampler(FULL, sampler_name), steps=FEW_STEPS)
    alone, euler = (real_subject.draw(each, range(2, 3)) for each in (setting, replace(FULL, steps=FEW_STEPS)))
    together = real_subject.draw(setting, range(1, 3))[1:]
    assert torch.allclose(together, alone, atol=1e-3) != setting.one_at_a_time
    assert not torch.allclose(alone, euler, atol=0.05)


def test_later_pairs_are_the_same_wherever_one_begins_to_count(real_subject):
    later = subject_and_examiner(first=3)[0]
    setting = Setting("", "", steps=FEW_STEPS)
    assert [later.prompt(pair) for pair in range(2)] == [real_subject.prompt(pair) for pair in (3, 4)]
    assert torch.allclose(later.draw(setting, range(2)), real_subject.draw(setting, range(3, 5)), atol=1e-3)
    assert later.key != real_subject.key


def test_a_number_format_draws_the_same_pictures_and_keeps_them_apart(real_subject):
    half = subject_and_examiner(torch.bfloat16)[0]
    assert (half.dtype, real_subject.dtype) == ("bfloat16", "float32")
    assert half.key != real_subject.key
    setting = Setting("", "", steps=FEW_STEPS)
    one, other = (subject.draw(setting, range(2)).float() for subject in (half, real_subject))
    assert 0 < (one - other).square().mean().sqrt() < 0.05


def test_the_gate_is_recorded_in_no_other_number_format(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["quality", "--only", "gate", "--dtype", "bf16"])
    monkeypatch.setattr(quality._host, "start", lambda options: None)
    with pytest.raises(SystemExit, match="leave out --dtype"):
        quality.main()


def test_an_interrupted_benchmark_goes_on_where_it_stopped(tmp_path):
    stopped = Runs(Subject(fail_at=RUN_PAIRS + 1), tmp_path)
    first, second = stopped.missing(PRESET, RUN_PAIRS + 2)
    stopped.draw(PRESET, first)
    with pytest.raises(KeyboardInterrupt):
        stopped.draw(PRESET, second)
    again = Runs(Subject(), tmp_path)
    for pairs in again.missing(PRESET, RUN_PAIRS + 2):
        again.draw(PRESET, pairs)
    assert again.subject.drawn == [0, RUN_PAIRS, RUN_PAIRS + 1]  # pair 0 to see that it is still drawn alike
    assert latents(again, PRESET)[:, 0].tolist() == list(range(RUN_PAIRS + 2))
    assert again.missing(PRESET, RUN_PAIRS + 2) == []


def test_pictures_that_are_no_longer_drawn_alike_are_drawn_again(tmp_path):
    before = Runs(Subject(), tmp_path)
    before.draw(PRESET, range(4))
    scores = Shards(before.folder / "scores", PRESET)
    scores.write(range(4), {"right": torch.ones(4)})
    after = Runs(Subject(), tmp_path)
    after.subject.offset = 0.5
    (pairs,) = after.missing(PRESET, 4)
    assert scores.done == 0
    after.draw(PRESET, pairs)
    assert latents(after, PRESET)[:, 0].tolist() == [0.5, 1.5, 2.5, 3.5]


def test_work_is_counted_as_executed_and_per_picture(tmp_path):
    runs = Runs(Subject(), tmp_path)
    alone = peer("EasyCache", True, reuse_threshold=0.1)
    for setting in (FULL, alone):
        for pairs in (range(3), range(3, 5)):
            runs.draw(setting, pairs)
            assert runs.shards(setting).read(pairs)["macs"].tolist() == [4] * len(pairs)  # of its matrix product


def test_a_failed_setting_is_reported_and_loses_no_other(tmp_path, monkeypatch):
    table = tables()["techniques"]
    broken = table.settings[2]

    def check(self, setting, pairs, draw=Subject.draw):
        if setting == broken:
            raise RuntimeError("no such cache")
        return draw(self, setting, pairs)

    monkeypatch.setattr(Subject, "draw", check)
    runs = Runs(Subject(), tmp_path)
    failures = quality.draw([table], runs, Scorebook(), 3)
    assert failures == {broken.key: "RuntimeError: no such cache"}
    assert all(runs.shards(setting).done == 3 for setting in table.settings if setting != broken)


def test_a_gap_between_files_ends_what_is_there(tmp_path):
    shards = Shards(tmp_path, PRESET)
    for pairs in (range(2), range(4, 6)):
        shards.write(pairs, {"latents": torch.zeros(2)})
    assert shards.done == 2


# Figures


def test_a_paired_difference_counts_only_pairs_that_changed():
    full = np.array([True] * 90 + [False] * 10)
    ours = full.copy()
    ours[:4], ours[95:97] = False, True
    found = share_difference(ours, full)
    assert found.value == pytest.approx(-0.02)
    assert found.low < -0.06 and 0.02 < found.high < 0.04


def test_equal_settings_still_have_an_interval():
    same = np.ones(100, bool)
    found = share_difference(same, same)
    assert found.low < 0 < found.high


def test_the_bootstrap_interval_has_the_width_that_theory_says():
    values = np.random.default_rng(1).normal(size=400)
    found = bootstrap(lambda rows: float(values[rows].mean()), len(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_the_frechet_distance_of_shifted_features_is_the_shift_squared():
    real = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(real, real + 3) == pytest.approx(8 * 9, rel=1e-3)


def test_the_frechet_distance_grows_as_real_pictures_lose_detail():
    examiner = subject_and_examiner()[1]
    crops = torch.from_numpy(examiner.judge.crops).permute(0, 3, 1, 2)
    real = examiner.real_features()

    def blurred(width):
        return torch.nn.functional.avg_pool2d(crops, width, 1, width // 2, count_include_pad=False)

    distances = [frechet_distance(real, examiner.real.encoder(blurred(width))) for width in (1, 3, 5, 9)]
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0, abs=0.01)
    assert distances[2] > 1.5 * distances[1]


def picture(size, row, column, background=1.0):
    shown = np.full((64, 64, 3), background, np.float32)
    shown[row : row + size, column : column + size] = (0.8, 0.2, 0.1)
    return shown


def test_detail_hardly_depends_on_place_and_size_but_on_sharpness():
    sharp = encoder.detail(picture(24, 8, 8))
    assert encoder.detail(picture(24, 30, 20)) == pytest.approx(sharp)
    assert encoder.detail(picture(40, 8, 8)) == pytest.approx(sharp, rel=0.05)
    blurred = torch.nn.functional.avg_pool2d(torch.from_numpy(picture(24, 8, 8)).permute(2, 0, 1), 3, 1, 1)
    assert encoder.detail(blurred.permute(1, 2, 0).numpy()[2:-2, 2:-2]) < 0.5 * sharp


def test_likeness_is_torchmetrics_by_picture():
    full = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    found = likeness(torch.stack([full[0], full[1] * 0.9]), full)
    assert found["psnr"].shape == found["ssim"].shape == found["difference"].shape == (2,)
    assert found["difference"][0] == 0 and found["ssim"][0] == pytest.approx(1)
    assert found["psnr"][1] == pytest.approx(-20 * float(found["difference"][1].log10()), rel=1e-3)


def test_an_encoder_that_has_seen_the_models_icons_is_refused():
    real = encoder.RealPictures()
    seen = next(iter(real.trained_on))
    with pytest.raises(ValueError, match="bench quality_encoder"):
        real.check_split({("noto", seen)})
    with pytest.raises(ValueError, match="bench quality_encoder"):
        real.check_split({("noto", "an icon without a measured detail")})


# Report


def scores(pairs, share, features=4):
    generator = torch.Generator().manual_seed(pairs)
    return {
        "right": torch.arange(pairs) < share * pairs,
        "error": torch.rand(pairs, generator=generator),
        "detail": torch.ones(pairs),
        "real_detail": torch.full((pairs,), 2.0),
        "features": torch.randn(pairs, features, generator=generator),
        "macs": torch.full((pairs,), 100),
    }


@pytest.fixture(scope="module")
def rows():
    full, real = scores(40, 0.9), torch.randn(30, 4)
    ours = scores(20, 0.5) | {"macs": torch.full((20,), 40)}
    return [
        report.row(FULL, full, full, real, None),
        report.row(PRESET, ours, full, real, None),
        report.row(tables()["frontier"].settings[1], {}, full, real, "RuntimeError: too dear"),
    ]


def test_a_setting_is_compared_with_the_full_run_of_the_same_pairs(rows):
    assert rows[1]["pairs"] == 20
    assert rows[1]["right_difference"]["value"] == pytest.approx(0.5 - 1.0)
    assert rows[1]["times_less_work"] == pytest.approx(2.5)
    assert rows[1]["detail"]["value"] == pytest.approx(0.5)


def test_settings_are_compared_with_those_that_take_as_much_work():
    table, real = tables()["frontier"], torch.randn(30, 4)
    ours, *others = (
        scores(20, share) | {"macs": torch.full((20,), macs)}
        for share, macs in ((0.8, 40), (0.5, 30), (0.6, 45), (0.7, 60))
    )
    full = scores(20, 1.0)
    names = ["m 0.75", "8 steps", "10 steps", "12 steps"]
    known = {setting.name: setting for setting in table.settings}
    measured = dict(zip(names, (ours, *others), strict=True))
    rows = [report.row(known[name], measured[name], full, real, None) for name in names]
    (found,) = report.comparisons(table, rows, measured, real)
    assert (found["name"], found["against"]) == ("m 0.75", "10 steps")
    assert found["right_difference"]["value"] == pytest.approx(0.2)


def test_a_sampler_is_compared_with_the_full_run_of_the_same_sampler():
    table, real = tables()["samplers"], torch.randn(30, 4)
    known = {setting.name: setting for setting in table.settings}
    names = ["full", "shipped preset, euler_ancestral", "full, euler_ancestral"]
    measured = dict(zip(names, (scores(20, share) for share in (1.0, 0.5, 0.75)), strict=True))
    rows = [report.row(known[name], measured[name], measured["full"], real, None) for name in names]
    (found,) = report.comparisons(table, rows, measured, real)
    assert (found["name"], found["against"]) == (names[1], names[2])
    assert found["right_difference"]["value"] == pytest.approx(-0.25)


def test_a_goal_is_met_when_the_bad_end_of_the_interval_meets_it(rows):
    work, points = quality.goals(rows)
    assert work["met"] and not points["met"]
    kept = rows[1] | {"right_difference": {"value": 0.01, "low": -0.019, "high": 0.04}}
    assert all(goal["met"] for goal in quality.goals([kept]))


def test_the_page_and_plot_show_what_was_measured_and_what_failed(rows, tmp_path):
    machine = {"device": "a processor", "torch": "2", "comfyui": "0", "date": "today"}
    result = {
        "name": "quality-x",
        "title": "A table",
        "weights": "0" * 64,
        "sampling": "steps 20",
        "seed": 7,
        "first_pair": 0,
    }
    result |= {"machine": machine, "notes": ["A note."], "rows": rows, "goals": quality.goals(rows)}
    result |= {"pairs_wanted": 128, "comparisons": []}
    page = report.page(json.loads(json.dumps(result)))
    assert "RuntimeError: too dear" in page and "-50.0" in page and "A note." in page and "not met" in page
    report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
