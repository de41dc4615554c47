"""Pictures of the embedded model by a worker in this process, judged by small random networks from real files."""

import argparse
import contextlib
import re
from pathlib import Path

import comfy.utils
import node_helpers
import nodes
import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchmetrics.multimodal.clip_score import CLIPScore

import evaluate
import tiny_judges
from evaluation import cluster, networks, summary
from evaluation.prompts import Prompt
from evaluation.store import Shard, Store
from evaluation.worker import DeviceLost, Worker, give_up
from postdiff.embedded_model.loader import load_embedded_model
from postdiff.nodes.postdiff_ksampler import PostDiffKSampler

SETTINGS = """
[models.embedded]
title = "Embedded model"
width = 64
height = 64
cfg = 3.0
sampler_name = "euler"
scheduler = "normal"
reference = "stock"

[models.embedded.settings.stock]
steps = 4

[models.embedded.settings.mix-cache]
steps = 4
mixed_resolution = { low_res_scale = 0.5, low_res_until = 0.5 }
deep_cache = { interval = 2, depth = 2 }
cross_attn_cache = { start_percent = 0.75 }
cfg_cutoff = { start_percent = 0.75 }
"""
PROMPTS = ("noto red apple", "fluent crab", "noto rocket")
SEED = 5


@pytest.fixture(scope="module", autouse=True)
def untouched_progress_bars():
    """A worker silences ComfyUI's; the other tests have them back."""
    before = comfy.utils.PROGRESS_BAR_ENABLED
    yield
    comfy.utils.set_progress_bar_enabled(before)


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> argparse.Namespace:
    """An evaluation of three prompts against four real pictures, one of which is none."""
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "settings.toml").write_text(SETTINGS)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "real").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 100 + 50 * number, (40, 32 + 8 * number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "real" / f"{number}.png")
    (folder / "real" / "3.jpg").write_bytes(b"no picture")
    arguments = ["--settings", folder / "settings.toml", "--prompts", folder / "prompts.txt", "--out", folder / "out"]
    arguments += ["--real", folder / "real", "--features", tiny_judges.save_features(folder / "features.pt")]
    arguments += ["--clip", tiny_judges.save_clip(folder / "clip"), "--lpips", "squeeze"]
    arguments += ["--lpips-weights", tiny_judges.save_lpips_weights(folder / "squeeze.pth")]
    return evaluate.parse([*map(str, arguments), "--seed", str(SEED), "--shard", "2"])


@pytest.fixture(scope="module")
def evaluation(options) -> evaluate.Evaluation:
    return evaluate.Evaluation(options)


@pytest.fixture(scope="module")
def worker(evaluation) -> Worker:
    return Worker(evaluation.job("cpu"))


@pytest.fixture(scope="module")
def finished(evaluation, worker) -> dict:
    """The summary after every unit of work was done by the worker."""
    evaluation.store.adopt(evaluation.identity())
    for task in evaluation.tasks():
        getattr(worker, task.method)(task.shard)
    summary.write(evaluation.store, evaluation.models, evaluation.judges)
    return summary.score(evaluation.store, evaluation.models, evaluation.judges)


def kept(evaluation: evaluate.Evaluation, setting: str) -> torch.Tensor:
    """The setting's pictures as saved: uint8 (n, 3, height, width)."""
    files = sorted((evaluation.store.root / "pictures" / "embedded" / setting).iterdir())
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0) for file in files])


def rows(finished: dict) -> dict:
    return finished["models"]["embedded"]


@pytest.mark.parametrize("setting", ["stock", "mix-cache"])
def test_kept_pictures_are_what_the_sampler_nodes_draw_with_the_same_seed(finished, evaluation, setting):
    model, clip, vae = load_embedded_model()
    encode, size = nodes.CLIPTextEncode().encode, {"width": 64, "height": 64}
    inputs = {
        "seed": SEED + 1,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "positive": node_helpers.conditioning_set_values(encode(clip, PROMPTS[1])[0], size),
        "negative": node_helpers.conditioning_set_values(encode(clip, "")[0], size),
        "latent_image": nodes.EmptyLatentImage().generate(64, 64)[0],
    }
    if setting == "stock":
        (latent,) = nodes.KSampler().sample(model=model, **inputs)
    else:
        latent, _ = PostDiffKSampler.execute(model=model, preset="sd15", **inputs).args  # the same settings
    drawn = nodes.VAEDecode().decode(vae, latent)[0][0].movedim(-1, 0)
    assert torch.equal(kept(evaluation, setting)[1], (255.0 * drawn).clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("setting", ["stock", "mix-cache"])
def test_fid_is_torchmetrics_fid_of_all_pictures_at_once(finished, evaluation, options, setting):
    fid = FrechetInceptionDistance(torch.jit.load(str(options.features)))
    for file in sorted(options.real.glob("*.png")):
        fid.update(torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0)[None], real=True)
    fid.update(kept(evaluation, setting), real=False)
    assert rows(finished)[setting]["fid"] == pytest.approx(float(fid.compute()), rel=1e-4)
    assert finished["real_pictures"] == {"seen": 3, "failed": 1}


def test_clip_score_is_torchmetrics_clip_score_of_all_pictures_at_once(finished, evaluation):
    metric = networks._clip_score(evaluation.judges.clip, torch.device("cpu"))
    assert isinstance(metric, CLIPScore)
    for setting in ("stock", "mix-cache"):
        metric.reset()
        metric.update(kept(evaluation, setting), list(PROMPTS))
        assert rows(finished)[setting]["clip_score"] == pytest.approx(float(metric.compute()), rel=1e-4)


def test_clip_score_tells_prompts_and_pictures_apart(finished, evaluation):
    scores = [value for each in evaluation.store.pictures("embedded") for value in each["clip_score"].to_pylist()]
    assert len({round(score, 4) for score in scores}) == 2 * len(PROMPTS)


def test_lpips_is_torchmetrics_lpips_to_the_reference_with_the_given_backbone(finished, evaluation, options, tmp_path):
    cache = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cache.parent.mkdir()
    cache.write_bytes(options.lpips_weights.read_bytes())
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    try:
        metric = LearnedPerceptualImagePatchSimilarity("squeeze", normalize=True)
    finally:
        torch.hub.set_dir(before)
    metric.update(kept(evaluation, "mix-cache") / 255, kept(evaluation, "stock") / 255)
    assert rows(finished)["mix-cache"]["lpips"] == pytest.approx(float(metric.compute()), rel=1e-3)
    assert rows(finished)["stock"]["lpips"] is None


def test_work_is_counted_in_the_papers_way_and_with_attention(finished):
    stock, postdiff = (rows(finished)[setting] for setting in ("stock", "mix-cache"))
    assert 0 < postdiff["teramacs"] < stock["teramacs"] / 2
    assert stock["teramacs_linear"] < stock["teramacs"]


def test_the_folder_holds_records_summary_table_and_plot(finished, evaluation):
    root = evaluation.store.root
    assert sum(table.num_rows for table in evaluation.store.pictures("embedded")) == 2 * len(PROMPTS)
    assert {"records.parquet", "summary.json", "table.md", "embedded.png"} <= {file.name for file in root.iterdir()}
    assert not list(root.rglob("*.partial"))
    assert Image.open(root / "embedded.png").convert("L").getextrema()[0] < 255


def test_all_work_is_done_so_that_nothing_is_left_for_another_run(finished, evaluation):
    assert all(evaluation.store.has(task.shard) for task in evaluation.tasks())
    evaluate.work(evaluation, evaluation.tasks())  # would start Ray


def test_a_dry_run_prints_the_hours_of_every_row_and_stores_nothing(evaluation, worker, monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "cluster", lambda *_: contextlib.nullcontext(cluster.Resources(2, "cpu")))
    monkeypatch.setattr(cluster, "call", lambda job, resources, method, *given: getattr(worker, method)(*given))
    monkeypatch.setattr(evaluation.store, "root", tmp_path)
    stock, mixed, real, total = evaluate.dry_run(evaluation).splitlines()
    for line, count in ((stock, 3), (mixed, 3), (real, 4)):
        seconds, hours = map(float, re.search(rf": ([\d.]+) s x {count} = ([\d.]+) h$", line).groups())
        assert hours == pytest.approx(seconds * count / 3600, abs=0.006)
    assert re.fullmatch(r"[\d.]+ CPU worker hours on cpu: [\d.]+ hours on 2 of them\.", total)
    assert not list(tmp_path.iterdir())


def test_a_prompt_that_is_none_is_recorded_and_the_others_are_drawn(worker):
    records = worker.records(Shard(0, (Prompt(0, None, "7"), Prompt(1, PROMPTS[0], "8")), "embedded"))
    assert [record.get("error") for record in records] == 2 * ["ValueError: The prompts file has no caption here."] + [
        None
    ] * 2


def test_a_picture_that_is_not_finite_is_recorded_and_the_others_are_drawn(worker, monkeypatch):
    decode = nodes.VAEDecode.decode
    broken = iter([False, True, False, False])
    monkeypatch.setattr(
        nodes.VAEDecode,
        "decode",
        lambda self, vae, samples: (decode(self, vae, samples)[0] * (float("nan") if next(broken) else 1.0),),
    )
    shard = Shard(0, (Prompt(0, PROMPTS[0], ""), Prompt(1, PROMPTS[1], "")), "embedded")
    errors = [record.get("error") for record in worker.records(shard)]
    assert errors == [None, "DrawingError: The picture is not finite (NaN or infinity).", None, None]


def test_without_its_reference_a_picture_has_no_lpips(worker, monkeypatch):
    decode = nodes.VAEDecode.decode
    broken = iter([True, False])
    monkeypatch.setattr(
        nodes.VAEDecode,
        "decode",
        lambda self, vae, samples: (decode(self, vae, samples)[0] * (float("nan") if next(broken) else 1.0),),
    )
    failed, drawn = worker.records(Shard(0, (Prompt(0, PROMPTS[0], ""),), "embedded"))
    assert failed["error"]
    assert drawn["lpips"] is None
    assert drawn["clip_score"] is not None


def test_a_lost_device_is_not_taken_for_a_bad_picture(worker, monkeypatch):
    def fail(*_):
        raise torch.AcceleratorError("an illegal memory access was encountered")

    monkeypatch.setattr(nodes.VAEDecode, "decode", fail)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        worker.records(Shard(0, (Prompt(0, PROMPTS[0], ""),), "embedded"))


def test_work_that_is_given_up_is_recorded_for_every_picture(evaluation, tmp_path):
    store, job = Store(tmp_path), evaluation.job("cpu")
    outcome = give_up(store, job, Shard(3, (Prompt(0, "a", ""), Prompt(1, "b", "")), "embedded"), "three workers died")
    assert outcome.pictures == len(outcome.errors) == 4
    (table,) = store.pictures("embedded")
    assert sorted(table["setting"].to_pylist()) == ["mix-cache", "mix-cache", "stock", "stock"]
    assert set(table["error"].to_pylist()) == {"three workers died"}


def test_another_machines_folder_is_not_written_to(evaluation, worker, monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "_job", argparse.Namespace(**{**vars(worker._job), "root": Path(tmp_path)}))
    monkeypatch.setattr(worker, "_store", Store(tmp_path))
    with pytest.raises(FileNotFoundError, match="must be a shared folder"):
        worker.see(Shard(0, files=tuple(evaluation.real[:1])))
    assert not list(tmp_path.iterdir())
