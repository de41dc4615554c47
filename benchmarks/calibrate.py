"""Does the calibration find what the full grid would, at a fraction of the cost? On the embedded model.

    python dev.py bench calibrate --pictures 108 --threads 1

Every setting of the quick grid draws every picture once; a picture is judged by its distance from the training picture
of its prompt, which can rank mixed resolution too. Then the search is replayed on these scores, each time on other
pictures. Scores are kept as they come: an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import _host

from arguments import positive
from environment import cache_folder
from pack import ROOT

DECIDES = (
    *("postdiff_core/**/*.py", "embedded_model/*.py", "embedded_model/*.sha256"),
    *("embedded_model/training/judge.py", "benchmarks/_subjects.py"),
)
STEPS = 8
MIN_SPEEDUP = 1.5
REPLAYS = 1000
SEARCHED_PICTURES = 36  # in each of them
SMALL_SETS = (1, 2, 4, 8)


def main() -> None:
    options = _parse()
    _host.start(options)
    result = measure(options)

    from _calibration import table
    from _results import save

    save(f"calibrate-embedded-{options.device}", result, table(result))
    print(json.dumps(result, indent=1) if options.json else table(result))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The full grid's errors, and what they say about the search and about small sets."""
    from _calibration import agreement, replay
    from _measure import machine
    from _subjects import EmbeddedModel

    subject = EmbeddedModel(options.pictures)
    shares = grid(subject)
    errors = errors_of(subject, shares, options.partial or store(options.device), options.minutes)
    pictures = len(next(iter(errors.values())))
    searched = {str(each): errors[str(each)] for each, share in shares.items() if share * MIN_SPEEDUP <= 1}
    only_s = {str(each): errors[str(each)] for each in shares if varies_s_only(each)}
    cost = {str(each): share for each, share in shares.items() if str(each) in searched}
    return {
        "benchmark": "calibrate",
        "title": f"{subject.title}, {STEPS} steps",
        "error_is": subject.error_is,
        "weights": subject.weights,
        "machine": machine(options.device),
        "pictures": pictures,
        "prompts": subject.prompts[:pictures],
        "min_speedup": MIN_SPEEDUP,
        "candidates": [
            {
                "name": str(each),
                "share": share,
                "searched": str(each) in searched,
                "varies_s_only": str(each) in only_s,
                "errors": errors[str(each)],
            }
            for each, share in shares.items()
        ],
        "replays": REPLAYS,
        "searched_pictures": (searched_pictures := min(SEARCHED_PICTURES, pictures)),
        "replay": replay(searched, cost, searched_pictures, REPLAYS)._asdict(),
        "agreement": {
            size: {"all searched": agreement(searched, size, 200), "s alone (figure 9)": agreement(only_s, size, 200)}
            for size in SMALL_SETS
            if 2 * size <= pictures
        },
    }


def store(device: str) -> Path:
    """Where scores are kept, named by all that decides them: what was scored otherwise is not gone on with."""
    import comfyui_version
    import torch

    content = hashlib.sha256(f"{STEPS} {device} {torch.__version__} {comfyui_version.__version__}".encode())
    for file in sorted(file for pattern in DECIDES for file in ROOT.glob(pattern)):
        content.update(file.read_bytes())
    return cache_folder() / f"calibrate-{content.hexdigest()[:12]}.jsonl"


def grid(subject: Any) -> dict[Any, float]:
    """The candidates of the search and those that differ in s alone, each with its share of the stock run's work."""
    from postdiff.postdiff_core.calibrate.grid import QUICK, Grid, usable_techniques
    from postdiff.postdiff_core.calibrate.pricing import Pricing

    given = subject.inputs[0]
    pricing = Pricing(
        given["model"],
        given["sampler_name"],
        given["scheduler"],
        given["cfg"],
        tuple(given["latent_image"]["samples"].shape[-2:]),
        given["positive"][0][0].shape[1],
        STEPS,
    )
    every = pricing.distinct(Grid((STEPS,), **QUICK).candidates(usable_techniques(given["model"], given["cfg"])))
    shares = {each: pricing.share(each) for each in every}
    return {each: share for each, share in shares.items() if share * MIN_SPEEDUP <= 1 or varies_s_only(each)}


def varies_s_only(candidate: Any) -> bool:
    """Whether it is the stock run or starts at half size, with everything computed: what figure 9 compares."""
    return candidate == candidate.uncached(STEPS) and candidate.low_res_scale in (0.5, 1.0)


def errors_of(subject: Any, candidates: Any, partial: Path, minutes: float) -> dict[str, list[float]]:
    """Every candidate's error on every picture that all have drawn when the time is up.

    Those in the file `partial` are not measured again.
    """
    import nodes
    from tqdm import tqdm

    from postdiff.postdiff_core import patch

    done = {(record["candidate"], record["picture"]): record["error"] for record in _records(partial)}
    pictures = range(len(subject.inputs))
    wanted = [(each, picture) for picture in pictures for each in candidates if (str(each), picture) not in done]
    deadline = time.monotonic() + 60 * minutes
    with open(partial, "a", encoding="utf-8") as log:
        for candidate, picture in tqdm(wanted, disable=None):
            if time.monotonic() >= deadline:
                break
            inputs = subject.inputs[picture] | {"steps": candidate.steps}
            inputs["model"] = patch.fill(inputs["model"], candidate.settings)
            error = subject.error(picture, nodes.KSampler().sample(**inputs)[0]["samples"])
            done[str(candidate), picture] = error
            print(json.dumps({"candidate": str(candidate), "picture": picture, "error": error}), file=log, flush=True)
    complete = [picture for picture in pictures if all((str(each), picture) in done for each in candidates)]
    if len(complete) < 2:
        raise SystemExit(f"Only {len(complete)} pictures are complete: give it more --minutes.")
    return {str(each): [done[str(each), picture] for picture in complete] for each in candidates}


def _records(partial: Path) -> list[dict[str, Any]]:
    """What the file holds; the end of a line that was interrupted is taken off it."""
    if not partial.exists():
        return []
    text = partial.read_text(encoding="utf-8")
    whole, end, _ = text.rpartition("\n")
    if whole + end != text:
        partial.write_text(whole + end, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench calibrate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--pictures", type=positive, default=108, help="prompts, one seed each")
    parser.add_argument("--minutes", type=float, default=600, help="then what is complete counts; 0: what there is")
    parser.add_argument(
        "--partial", type=Path, help="where the scores are kept as they come; default: the cache folder"
    )
    _host.add_options(parser)
    _host.add_json_option(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
