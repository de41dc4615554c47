"""Pictures and scores of many prompts, on one GPU or many: FID, CLIP score, LPIPS, work and latency of each setting.

Stop it whenever you like: the same command goes on where it stopped. docs/reproduce_table_2.md shows it in use.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from arguments import natural, positive
from pack import ROOT, comfyui_path

FOLDER = Path(__file__).resolve().parent / "evaluation"
PACKAGES = ("matplotlib", "pyarrow", "ray", "torchmetrics")
OLDEST_PYTHON = (3, 11)
DRAWS = ("postdiff_core/**/*.py", "nodes/*.py", "embedded_model/*.py", "embedded_model/*.sha256")
SCORES = ("tools/evaluation/*.py",)
REPORTS = ("summary.py", "plots.py")  # made anew from the records each time
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PIECE, PIECES = 2**16, 64  # of a checkpoint, for its digest: bytes, and how many
MEASURED_PROMPTS = 3  # of a dry run, after one that warms up
TOLERATED_FAILURES, TOLERATED_SHARE = 20, 0.1


class TooManyFailures(RuntimeError):
    pass


def require_packages() -> None:
    """End with the command that installs what is missing."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"The evaluation needs Python {'.'.join(map(str, OLDEST_PYTHON))} or newer.")
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        install = f"{sys.executable} -m pip install --requirement {FOLDER / 'requirements.txt'}"
        sys.exit(f"The evaluation needs {', '.join(missing)}, which the nodes do not. Install with:\n  {install}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    return command_line().parse_args(arguments)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py evaluate", description=__doc__)
    what = parser.add_argument_group("what to draw")
    what.add_argument("--settings", type=Path, default=FOLDER / "table_2.toml", help="TOML or JSON (%(default)s)")
    what.add_argument("--model", action="append", help="only this model of the settings file (repeatable)")
    what.add_argument("--models-folder", type=Path, help="where its files lie (default: ComfyUI's models folder)")
    what.add_argument("--prompts", type=Path, required=True, help="COCO captions (.json), or text, one prompt a line")
    what.add_argument("--limit", type=positive, help="that many of the prompts, drawn at random, always the same")
    what.add_argument("--seed", type=int, default=0, help="prompt number i is drawn with seed SEED + i (%(default)s)")
    scores = parser.add_argument_group("scores (weights are yours: nothing is downloaded)")
    scores.add_argument("--real", type=Path, help="folder of real pictures; asks for FID")
    scores.add_argument("--inception", type=Path, help="torch-fidelity's Inception weights (default: torch's cache)")
    scores.add_argument("--features", type=Path, help="instead of Inception: a network as a TorchScript file")
    clip = "openai/clip-vit-large-patch14"
    scores.add_argument(
        "--clip", default=clip, help="CLIP model, folder or cached name; none to leave out (%(default)s)"
    )
    networks = ("alex", "vgg", "squeeze", "none")
    scores.add_argument("--lpips", choices=networks, default="alex", help="LPIPS backbone (%(default)s)")
    scores.add_argument("--lpips-weights", type=Path, help="its ImageNet weights (default: torch's cache)")
    how = parser.add_argument_group("how")
    how.add_argument("--out", type=Path, required=True, help="folder for everything; the same folder resumes")
    how.add_argument("--keep", type=natural, default=100, help="of that many prompts, pictures are kept (%(default)s)")
    how.add_argument("--workers", type=positive, help="default: one for each GPU, or one")
    how.add_argument("--address", help="a running Ray cluster (auto, or host:port); default: this machine alone")
    how.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    how.add_argument("--shard", type=positive, default=4, help="prompts in a unit of work (%(default)s)")
    how.add_argument("--dry-run", action="store_true", help="measure a few pictures and print the hours of all")
    return parser


class Evaluation:
    """What the command line asks for, read and checked."""

    def __init__(self, options: argparse.Namespace) -> None:
        from evaluation import networks, prompts, settings
        from evaluation.store import Store

        self.options = options
        self.models = settings.select(settings.read(options.settings), options.model)
        self.prompts = prompts.sample(prompts.read(options.prompts), options.limit)
        self.judges = judges_of(options)
        networks.check(self.judges)
        self.real = real_pictures(options.real)
        self.models_folder = (options.models_folder or comfyui_path() / "models").expanduser().resolve()
        require_files(self.models, self.models_folder)
        self.store = Store(options.out.expanduser().resolve())

    def job(self, device: str) -> Any:
        """What the workers are told."""
        from evaluation.worker import Job

        kept = self.prompts[: self.options.keep]
        return Job(
            root=self.store.root,
            models=self.models,
            models_folder=self.models_folder,
            judges=self.judges,
            seed=self.options.seed,
            keep_below=kept[-1].index + 1 if kept else 0,
            device=device,
        )

    def identity(self) -> dict[str, Any]:
        """All that decides the records: a folder holds the work of one identity."""
        prompts = [[prompt.index, prompt.text] for prompt in self.prompts]
        return {
            "models": [model.identity() for model in self.models],
            "prompts": {"count": len(prompts), "sha256": digest(prompts)},
            "real": {"count": len(self.real), "sha256": digest([Path(file).name for file in self.real])},
            "seed": self.options.seed,
            "judges": {name: with_digest(given) for name, given in vars(self.judges).items()},
            "shard": self.options.shard,
            "weights": {
                file: weights_digest(self.models_folder / file) for model in self.models for file in model.files
            },
            "code": code_versions(),
        }

    def tasks(self) -> list[Any]:
        """Every unit of work, model by model."""
        from evaluation.cluster import Task
        from evaluation.store import Shard

        size = self.options.shard
        real = [self.real[at : at + size] for at in range(0, len(self.real), size)]
        prompts = [self.prompts[at : at + size] for at in range(0, len(self.prompts), size)]
        tasks = [Task("see", Shard(number, files=tuple(files))) for number, files in enumerate(real)]
        return tasks + [
            Task("draw", Shard(number, tuple(chunk), model.name))
            for model in self.models
            for number, chunk in enumerate(prompts)
        ]

    def pictures_in(self, task: Any) -> int:
        if task.method == "see":
            return len(task.shard.files)
        (model,) = (model for model in self.models if model.name == task.shard.model)
        return len(task.shard.prompts) * len(model.settings)


def judges_of(options: argparse.Namespace) -> Any:
    from evaluation.networks import Judges, cached_inception

    if options.real is None and (options.inception or options.features):
        raise ValueError("FID compares with real pictures: name their folder with --real.")
    if options.inception and options.features:
        raise ValueError("--inception and --features exclude each other: FID takes one network.")
    with_inception = options.real is not None and options.features is None
    return Judges(
        inception=str((options.inception or cached_inception()).absolute()) if with_inception else None,
        features=str(options.features.absolute()) if options.features else None,
        clip=None if options.clip == "none" else absolute_if_folder(options.clip),
        lpips=None if options.lpips == "none" else options.lpips,
        lpips_weights=str(options.lpips_weights.absolute()) if options.lpips_weights else None,
    )


def absolute_if_folder(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def real_pictures(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    found = sorted(str(file) for file in folder.resolve().rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)}).")
    return found


def require_files(models: Sequence[Any], folder: Path) -> None:
    wanted = [(folder / file, model.name) for model in models for file in model.files]
    missing = [f"  {file} (of {name})\n" for file, name in wanted if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"These model files are missing:\n{''.join(missing)}"
            "Put them there, name another --models-folder, or choose models with --model."
        )


def digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def weights_digest(file: Path) -> str:
    """Tells one checkpoint from another without reading all of it: by its size and by pieces from all over it."""
    size, parts = file.stat().st_size, []
    with file.open("rb") as opened:
        for number in range(PIECES):
            opened.seek(max(0, size - PIECE) * number // (PIECES - 1))
            parts.append(opened.read(PIECE))
    return digest((size, parts))


def with_digest(judge: str | None) -> str | None:
    """A judge's weights with what is in them, if they are one file."""
    if judge is None or not Path(judge).is_file():
        return judge
    return f"{judge} {weights_digest(Path(judge))}"


def code_versions() -> dict[str, str]:
    """What draws and scores: ComfyUI, torch, and sources of this pack, whose version may stay while they change."""
    found = [file for pattern in (*DRAWS, *SCORES) for file in sorted(ROOT.glob(pattern))]
    sources = [file for file in found if file.name not in REPORTS]
    return {
        "comfyui": runpy.run_path(str(comfyui_path() / "comfyui_version.py"))["__version__"],
        "torch": importlib.metadata.version("torch"),
        "postdiff": digest([(file.relative_to(ROOT).as_posix(), file.read_bytes()) for file in sources]),
    }


class Progress:
    """A bar over all pictures, those of earlier runs included, with the time left."""

    def __init__(self, evaluation: Evaluation, total: int, done: int) -> None:
        from tqdm import tqdm

        self._evaluation, self._failed, self._drawn = evaluation, 0, 0
        self._bar = tqdm(total=total, initial=done, unit="picture", desc="Evaluating", smoothing=0.05)

    def done(self, task: Any, outcome: Any) -> None:
        self._bar.update(outcome.pictures)
        self._drawn += outcome.pictures
        self._failed += len(outcome.errors)
        if outcome.errors:
            self._bar.set_postfix(failed=self._failed)
        if self._failed > max(TOLERATED_FAILURES, TOLERATED_SHARE * self._drawn):
            raise TooManyFailures(
                f"{self._failed} of {self._drawn} pictures failed, the last with {outcome.errors[-1]!r}. "
                "What is done is kept."
            )

    def redone(self, task: Any, reason: str) -> None:
        self._bar.write(f"A worker died and its work is done again: {reason}", file=sys.stderr)

    def given_up(self, task: Any, reason: str) -> None:
        from evaluation.worker import give_up

        evaluation = self._evaluation
        self.done(task, give_up(evaluation.store, evaluation.job("cpu"), task.shard, reason))

    def waited(self) -> None:
        """Keep the clock running, where somebody watches it."""
        if sys.stderr.isatty():
            self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def work(evaluation: Evaluation, tasks: Sequence[Any]) -> None:
    """Do what is left to do."""
    from evaluation.cluster import Events, cluster, run

    pending = [task for task in tasks if not evaluation.store.has(task.shard)]
    total, left = (sum(map(evaluation.pictures_in, each)) for each in (tasks, pending))
    if not pending:
        return
    say(f"{left} of {total} pictures to go. Starting Ray ...")
    options = evaluation.options
    with cluster(options.address, options.workers, options.device) as resources:
        say(f"{resources.workers} workers on {resources.device}; each loads ComfyUI and the model first.")
        progress = Progress(evaluation, total, total - left)
        try:
            events = Events(progress.done, progress.redone, progress.given_up, progress.waited)
            run(evaluation.job(resources.device), resources, pending, events)
        finally:
            progress.close()


def dry_run(evaluation: Evaluation) -> str:
    """What the whole evaluation costs, from a few pictures of each model on one worker."""
    from evaluation.cluster import call, cluster
    from evaluation.store import Shard

    options = evaluation.options
    some = tuple(prompt for prompt in evaluation.prompts if prompt.text is not None)[: 1 + MEASURED_PROMPTS]
    lines, hours, device = [], 0.0, ""
    with cluster(options.address, options.workers, options.device) as resources:
        job = evaluation.job(resources.device)
        for model in evaluation.models:
            say(f"Measuring {model.title}: {len(some)} prompts x {len(model.settings)} settings ...")
            records = call(job, resources, "records", Shard(0, some, model.name))
            device = records[0]["device"]
            for setting in model.settings:
                seconds = seconds_of(setting.name, records)
                hours += seconds * len(evaluation.prompts) / 3600
                lines.append(cost_line(model.title, setting.name, seconds, len(evaluation.prompts)))
        if evaluation.real:
            say("Measuring real pictures ...")
            seconds = call(job, resources, "seconds_to_see", Shard(0, files=tuple(evaluation.real[:16])))
            hours += seconds * len(evaluation.real) / 3600
            lines.append(cost_line("real pictures", "features", seconds, len(evaluation.real)))
    unit = "GPU hours" if resources.device == "cuda" else "CPU worker hours"
    lines.append(
        f"{hours:.2f} {unit} on {device}: {hours / resources.workers:.2f} hours on {resources.workers} of them."
    )
    return "\n".join(lines)


def seconds_of(setting: str, records: Sequence[dict[str, Any]]) -> float:
    """Median seconds of drawing and judging one picture, the first (which warms up) left out."""
    of_setting = [record for record in records if record["setting"] == setting]
    failed = next((record["error"] for record in of_setting if record.get("error")), None)
    if failed:
        raise TooManyFailures(f"A picture of setting {setting} failed: {failed}")
    parts = ("seconds_encode", "seconds_sample", "seconds_decode", "seconds_score")
    return median(sum(record[part] for part in parts) for record in of_setting[1:] or of_setting)


def cost_line(what: str, setting: str, seconds: float, count: int) -> str:
    return f"{what}, {setting}: {seconds:.3f} s x {count} = {seconds * count / 3600:.2f} h"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    require_packages()
    from evaluation import summary
    from evaluation.worker import remove_scratch

    evaluation = Evaluation(options)
    with evaluation.store.lock():
        try:
            if options.dry_run:
                print(dry_run(evaluation))
                return
            evaluation.store.adopt(evaluation.identity())
            work(evaluation, evaluation.tasks())
        finally:
            remove_scratch(evaluation.store.root)
        print(summary.write(evaluation.store, evaluation.models, evaluation.judges))
        say(f"Everything is in {evaluation.store.root}.")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))
    try:
        main(sys.argv[1:])
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"The evaluation stopped: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The same command goes on from here.")
