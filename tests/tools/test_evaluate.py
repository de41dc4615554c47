"""What an evaluation is asked for and how its work is stored; nothing is drawn here."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

import evaluate
import pack
import tiny_models
from evaluation import drawing, networks, prompts, settings, summary
from evaluation.prompts import Prompt
from evaluation.store import Shard, Store, StoreError
from postdiff.postdiff_core import presets
from postdiff.postdiff_core import schedule as pack_schedule

tomllib = pytest.importorskip("tomllib", reason="an evaluation needs Python 3.11")

FOLDER = pack.ROOT / "tools" / "evaluation"
PAGE = pack.ROOT / "docs" / "reproduce_table_2.md"

MODEL = {
    "title": "A model",
    "width": 64,
    "height": 64,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "reference": "stock",
    "settings": {"stock": {"steps": 4}, "mix": {"steps": 4, "mixed_resolution": {"low_res_scale": 0.5}}},
}


def settings_file(folder: Path, **changes) -> Path:
    """A settings file of one model with these entries changed; None takes one out."""
    model = {name: value for name, value in {**MODEL, **changes}.items() if value is not None}
    file = folder / "settings.json"
    file.write_text(json.dumps({"models": {"a": model}}))
    return file


def test_the_shipped_settings_with_all_techniques_are_the_papers_presets():
    for model in settings.read(FOLDER / "table_2.toml"):
        (row,) = (row for row in model.settings if row.mixes and row.caches)
        techniques = {name: pack_schedule.TECHNIQUES[name](**values) for name, values in row.techniques.items()}
        assert pack_schedule.Settings(**techniques) == presets.PRESETS[model.name]


def test_the_shipped_settings_have_every_row_of_table_2_and_its_reference_is_the_full_stock_run():
    models = {model.name: model for model in settings.read(FOLDER / "table_2.toml")}
    assert {name: len(model.settings) for name, model in models.items()} == {
        "sd15": 5,
        "lcm": 4,
        "sdxl": 5,
        "pixart_alpha": 5,
    }
    for model in models.values():
        (reference,) = (row for row in model.settings if row.name == model.reference)
        assert reference.steps == max(row.steps for row in model.settings)
        assert not reference.techniques
        assert all(set(row.published) == set(settings.FIGURES) for row in model.settings)


def test_the_published_work_of_stock_rows_is_proportional_to_their_steps():
    for model in settings.read(FOLDER / "table_2.toml"):
        per_step = {row.published["flops"] / row.steps for row in model.settings if not row.techniques}
        assert max(per_step) - min(per_step) < 1e-3 * max(per_step)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "full"}, "reference 'full', which is none of its settings"),
        ({"cfgg": 2.0}, "unknown 'cfgg'"),
        ({"sampler_name": None}, "lacks sampler_name"),
        ({"settings": {}}, "names no setting"),
        ({"settings": {"stock": {"steps": 0}}}, "needs its number of steps"),
        ({"settings": {"stock": {"steps": 4, "deepcache": {}}}}, "unknown 'deepcache'"),
        ({"settings": {"stock": {"steps": 4, "deep_cache": {"interval": 0}}}}, "interval"),
        ({"settings": {"../stock": {"steps": 4}}}, "becomes the name of a folder"),
        ({"diffusion_model": "a.safetensors"}, "name its text_encoders and its vae"),
        ({"checkpoint": "a", "diffusion_model": "b", "text_encoders": ["c"], "vae": "d"}, "name one of them"),
    ],
)
def test_a_mistake_in_a_settings_file_is_named_with_its_place(tmp_path, changes, message):
    with pytest.raises(settings.SettingsError, match=re.escape(message)) as raised:
        settings.read(settings_file(tmp_path, **changes))
    assert "settings.json" in str(raised.value)
    assert "models.a" in str(raised.value)


def test_toml_and_json_settings_are_read_alike(tmp_path):
    shipped = FOLDER / "embedded_model.toml"
    file = tmp_path / "same.json"
    file.write_text(json.dumps(tomllib.loads(shipped.read_text(encoding="utf-8"))))
    assert settings.read(file) == settings.read(shipped)


def test_an_unknown_model_is_refused_with_those_there_are(tmp_path):
    models = settings.read(settings_file(tmp_path))
    with pytest.raises(settings.SettingsError, match=r"no model 'b' .* has a"):
        settings.select(models, ["b"])


def test_the_reference_is_drawn_first(tmp_path):
    (model,) = settings.read(settings_file(tmp_path, reference="mix"))
    assert [row.name for row in model.in_drawing_order] == ["mix", "stock"]
    assert [row.name for row in model.settings] == ["stock", "mix"]


def test_a_coco_file_gives_one_caption_for_each_picture_in_order_of_its_id(tmp_path):
    annotations = [
        {"image_id": 9, "id": 5, "caption": "a later caption"},
        {"image_id": 9, "id": 4, "caption": " a dog \n"},
        {"image_id": 3, "id": 8, "caption": "a cat"},
        {"image_id": 7, "id": 1, "caption": ""},
        {"image_id": 8, "id": 2},
    ]
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"annotations": annotations}))
    assert prompts.read(file) == [
        Prompt(0, "a cat", "3"),
        Prompt(1, None, "7"),
        Prompt(2, None, "8"),
        Prompt(3, "a dog", "9"),
    ]


def test_a_text_file_gives_one_prompt_for_each_line_that_is_not_empty(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  a dog  \n", encoding="utf-8")
    assert prompts.read(file) == [Prompt(0, "a cat", "line 1"), Prompt(1, "a dog", "line 3")]


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", b"\n"), ("a.json", b"[1]"), ("a.json", b"{"), ("a.txt", b"\xff")]
)
def test_a_file_without_prompts_is_refused_by_name(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(prompts.PromptsError, match=name):
        prompts.read(file)


def test_a_limit_draws_the_same_prompts_each_time_and_keeps_their_seeds():
    everything = [Prompt(i, str(i), "") for i in range(100)]
    some = prompts.sample(everything, 10)
    assert some == prompts.sample(everything, 10)
    assert len(set(some)) == 10
    assert all(everything[prompt.index] == prompt for prompt in some)
    assert some != everything[:10]
    assert prompts.sample(everything, 1000) == everything


def record(setting: str, index: int, **values) -> dict:
    return {"model": "a", "setting": setting, "prompt_index": index, **values}


def test_a_shard_is_stored_whole_under_a_name_that_its_work_decides(tmp_path):
    store, shard = Store(tmp_path), Shard(7, (Prompt(0, "a cat", ""),), "a")
    assert not store.has(shard)
    store.write(shard, [record("stock", 0, features=[1.0, 2.0]), record("mix", 0, error="broken")])
    store.write(shard, [record("stock", 0, features=[1.0, 2.0]), record("mix", 0, error="broken")])  # done again
    assert store.has(shard)
    assert [file.name for file in (tmp_path / "shards" / "models" / "a").iterdir()] == ["000007.parquet"]
    assert [table.num_rows for table in store.pictures("a", "stock")] == [1]


def test_a_folder_takes_up_only_the_evaluation_that_it_holds(tmp_path):
    store = Store(tmp_path)
    store.adopt({"seed": 0, "shard": 4})
    store.adopt({"shard": 4, "seed": 0})
    with pytest.raises(StoreError, match="differs in: seed"):
        store.adopt({"seed": 1, "shard": 4})


def test_checkpoints_of_one_size_are_told_apart_and_the_code_is_named(tmp_path):
    """Also where their last weights are the same, as after a finetune of some layers."""
    contents = {
        "one": bytes(2**23),
        "another end": bytes(2**23 - 1) + b"1",
        "another middle": bytes(2**22) + b"1" * 2**20 + bytes(3 * 2**20),
        "empty": b"",
    }
    files = [tmp_path / name for name in contents]
    for file in files:
        file.write_bytes(contents[file.name])
    assert evaluate.weights_digest(files[0]) == evaluate.weights_digest(files[0])
    assert len({evaluate.weights_digest(file) for file in files}) == len(files)
    found = evaluate.code_versions()
    assert found["comfyui"].count(".") == 2 and found["torch"] and len(found["postdiff"]) == 64


def test_what_draws_or_scores_is_told_apart_and_what_reports_is_not(tmp_path, monkeypatch):
    drawing, loader, report = "postdiff_core/run.py", "embedded_model/loader.py", "tools/evaluation/summary.py"
    for name in (drawing, loader, report):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(evaluate, "ROOT", tmp_path)
    found = [evaluate.code_versions()["postdiff"]]
    for name in (report, drawing, loader):
        (tmp_path / name).write_text("after")
        found.append(evaluate.code_versions()["postdiff"])
    assert found[0] == found[1] and len(set(found)) == 3
    weights = tmp_path / "inception.pth"
    weights.write_bytes(b"before")
    before = evaluate.with_digest(str(weights))
    weights.write_bytes(b"other!")
    assert evaluate.with_digest(str(weights)) != before
    assert evaluate.with_digest("openai/clip-vit-large-patch14") == "openai/clip-vit-large-patch14"


def test_two_evaluations_cannot_work_in_one_folder(tmp_path):
    store = Store(tmp_path)
    with store.lock(), pytest.raises(StoreError, match="Another evaluation"):
        Store(tmp_path).lock()
    with store.lock():
        pass


def test_titles_and_published_figures_may_change_but_not_what_is_drawn(tmp_path):
    (model,) = settings.read(settings_file(tmp_path))
    (retitled,) = settings.read(settings_file(tmp_path, title="Another title"))
    (other,) = settings.read(settings_file(tmp_path, cfg=4.0))
    assert model.identity() == retitled.identity()
    assert model.identity() != other.identity()


def scored(folder: Path, rows: list[dict]) -> tuple[tuple[settings.Model, ...], dict]:
    store = Store(folder / "out")
    models = settings.read(settings_file(folder))
    for number, row in enumerate(rows):
        store.write(Shard(number, model="a"), [row])
    return models, summary.score(store, models, networks.Judges(clip="some"))


def test_a_row_gives_means_of_scores_and_medians_of_seconds_without_what_failed(tmp_path):
    seconds = {"seconds_encode": 0.0, "seconds_decode": 0.0}
    rows = [
        record("stock", 0, clip_score=30.0, seconds_sample=1.0, macs=4 * 10**12, macs_linear=3 * 10**12, **seconds),
        record("stock", 1, clip_score=20.0, seconds_sample=9.0, macs=4 * 10**12, macs_linear=3 * 10**12, **seconds),
        record("stock", 2, clip_score=28.0, seconds_sample=2.0, macs=4 * 10**12, macs_linear=3 * 10**12, **seconds),
        record("stock", 3, error="broken"),
    ]
    models, document = scored(tmp_path, rows)
    row = document["models"]["a"]["stock"]
    assert (row["pictures"], row["failed"]) == (3, 1)
    assert row["clip_score"] == pytest.approx(26.0)
    assert row["clip_score_standard_error"] == pytest.approx(28**0.5 / 3**0.5)
    assert (row["seconds"], row["teramacs"], row["teramacs_linear"]) == (2.0, 4.0, 3.0)
    assert [error["error"] for error in document["errors"]] == ["broken"]
    assert "| A model | 4 |  |  | - | 26.00 | 3.000 | 2.000 | reference | 4.000 | 3 |" in summary.table(
        models, document
    )
    assert "1 pictures failed" in summary.table(models, document)


def test_a_setting_without_pictures_has_no_figures(tmp_path):
    models, document = scored(tmp_path, [record("stock", 0, error="broken")])
    assert "| A model | 4 | \N{CHECK MARK} |  | - | - | - | - | - | - | 0 |" in summary.table(models, document)


def test_the_papers_figures_stand_below_in_the_same_layout(tmp_path):
    models = settings.read(FOLDER / "table_2.toml")
    empty = summary.score(Store(tmp_path), models, networks.Judges())
    text = summary.table(models, empty)
    assert "| SD V1.5 | 20 | \N{CHECK MARK} | \N{CHECK MARK} | 16.65 | 30.25 | 11.129 | 1.139 |" in text
    assert "| LCM | 8 |  |  | 22.96 | 28.72 | 6.084 | 0.825 |" in text


def test_pictures_of_a_model_that_cannot_be_counted_do_not_repeat_what_was_noted():
    patched = drawing._Patched(tiny_models.auraflow(), settings.Setting("stock", 4))
    assert [patched.work((32, 32), 7, 3.0) for _ in range(3)] == [(None, None)] * 3
    assert len(patched.notes) == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(SystemExit, match=r"needs ray, .*\n.* -m pip install --requirement .*requirements.txt"):
        evaluate.require_packages()


def test_every_package_that_is_asked_for_is_in_the_requirements_file():
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = {line.partition("#")[0].strip() for line in lines} - {""}
    assert required == {*evaluate.PACKAGES, "torch-fidelity"}


@pytest.mark.parametrize(
    ("judges", "message"),
    [
        ({"features": "/nowhere/net.pt"}, "missing: /nowhere/net.pt"),
        ({"clip": "nobody/no-such-clip"}, "hf download nobody/no-such-clip"),
        ({"clip": "."}, "no CLIP model"),
        ({"lpips": "squeeze", "lpips_weights": "/nowhere/squeeze.pth"}, r"curl .* /nowhere/squeeze.pth http\S+squeeze"),
    ],
)
def test_missing_weights_are_named_before_any_work_with_the_command_that_fetches_them(judges, message):
    with pytest.raises(networks.MissingWeights, match=message):
        networks.check(networks.Judges(**judges))


def parsed(folder: Path, *arguments: str) -> evaluate.argparse.Namespace:
    return evaluate.parse(["--prompts", str(folder / "prompts.txt"), "--out", str(folder / "out"), *arguments])


def test_missing_model_files_are_all_named_before_any_work(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n")
    options = parsed(tmp_path, "--clip", "none", "--lpips", "none", "--models-folder", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"(?s)checkpoints.*\(of sd15\).*t5xxl.*\(of pixart_alpha\).*--model"):
        evaluate.Evaluation(options)
    assert not (tmp_path / "out").exists()


def test_fid_needs_real_pictures(tmp_path):
    with pytest.raises(ValueError, match="--real"):
        evaluate.judges_of(parsed(tmp_path, "--features", "net.pt"))
    with pytest.raises(ValueError, match="holds no pictures"):
        evaluate.real_pictures(tmp_path)


def test_hours_come_from_the_pictures_after_the_one_that_warms_up():
    parts = ("seconds_encode", "seconds_sample", "seconds_decode", "seconds_score")
    records = [{"setting": "stock", **dict.fromkeys(parts, value)} for value in (50.0, 1.0, 2.0, 3.0)]
    assert evaluate.seconds_of("stock", records) == 8.0
    assert evaluate.cost_line("A model", "stock", 8.0, 900) == "A model, stock: 8.000 s x 900 = 2.00 h"


def test_an_evaluation_in_which_many_pictures_fail_stops(capsys):
    from evaluation.worker import Outcome

    progress = evaluate.Progress(None, total=1000, done=0)
    progress.done(None, Outcome(200, ("broken",) * 20))
    with pytest.raises(evaluate.TooManyFailures, match=r"21 of 204 .*'worse'"):
        progress.done(None, Outcome(4, ("worse",)))
    progress.close()


def test_every_option_and_model_that_the_page_names_exists():
    text = PAGE.read_text(encoding="utf-8")
    options = {flag for action in evaluate.command_line()._actions for flag in action.option_strings}
    named = {
        flag for line in re.findall(r"dev\.py evaluate(.*(?:\\\n.*)*)", text) for flag in re.findall(r"--[a-z-]+", line)
    }
    assert named
    assert named <= options
    models = {model.name for model in settings.read(FOLDER / "table_2.toml")}
    assert set(re.findall(r"--model (\w+)", text)) <= models
    for model in settings.read(FOLDER / "table_2.toml"):
        assert all(file in text for file in model.files)


def test_the_pages_hours_are_the_papers_latencies_times_cocos_pictures():
    text = PAGE.read_text(encoding="utf-8")
    total = 0.0
    for model in settings.read(FOLDER / "table_2.toml"):
        seconds = sum(row.published["latency"] for row in model.settings)
        total += seconds
        assert f"| {model.name} | {seconds:.3f} | {seconds * 40504 / 3600:.0f} |" in text
    assert f"| all | {total:.3f} | {total * 40504 / 3600:.0f} |" in text
