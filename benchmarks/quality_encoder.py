"""Train the encoder that `quality` takes its Frechet distance in, and measure the detail of real icons.

    python dev.py bench quality_encoder

From the icons of the two npm packages (fetched with npm, or found in --downloads); the encoder learns to tell apart the
icons that the embedded model never draws. Seeded; about a minute on one CPU core. Run it again when the embedded model
learns other icons.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _host

from environment import cache_folder

SEED, STEPS, BATCH, LEARNING_RATE = 7, 800, 64, 3e-3
DRAWN_SIDE = 192  # pixels, about as large as the model draws an icon
MAX_SHIFT = 3  # pixels of 64


def main() -> None:
    options = _parse()
    _host.start(options)
    from _quality_encoder import FILE

    from postdiff.embedded_model.training.config import STYLES, concepts
    from postdiff.embedded_model.training.icons import fetch_icon_set

    sets = {style: fetch_icon_set(style, options.downloads) for style in STYLES}
    shared = set.intersection(*({name for name in each["icons"] if "skin-tone" not in name} for each in sets.values()))
    drawn = {concept.icon for concept in concepts()} | shipped_icons()
    unseen = sorted(shared - drawn)
    encoder, right = train(crops(sets, unseen))
    about = {
        "trained_on": unseen,
        "icons": sorted(drawn),
        "styles": list(sets),
        "seed": SEED,
        "steps": STEPS,
        "told_apart": right,
    }
    save(FILE, encoder, details(sets, sorted(drawn)), about)
    print(f"{FILE.name}: trained on {len(unseen)} icons in {len(sets)} styles, of which it tells {right:.0%} apart.")


def shipped_icons() -> set[str]:
    """The names, in the packages, of what the shipped model draws."""
    from postdiff.embedded_model.training.config import STYLES
    from postdiff.embedded_model.training.judge import SHIPPED

    concepts = json.loads((SHIPPED / "concepts.json").read_text(encoding="utf-8"))
    return {about[package] for about in concepts.values() for package, _version in STYLES.values()}


def crops(sets: Mapping[str, dict], icons: list[str]) -> Any:
    """(icons, styles, 64, 64, 3) in 8 bit, cropped as the judge crops."""
    import numpy as np
    from _quality_encoder import SIDE

    from postdiff.embedded_model.training.judge import crop_to_foreground

    def crop(each: dict, icon: str) -> np.ndarray:
        return np.rint(crop_to_foreground(_drawn(each, icon, SIDE)) * 255).astype(np.uint8)

    return np.stack([[crop(each, icon) for each in sets.values()] for icon in _shown(icons)])


def details(sets: Mapping[str, dict], icons: list[str]) -> Any:
    """(icons, styles) detail of real icons."""
    import numpy as np
    from _quality_encoder import detail

    found = [[detail(_drawn(each, icon, DRAWN_SIDE)) for each in sets.values()] for icon in _shown(icons)]
    return np.asarray(found, np.float32)


def _drawn(icon_set: dict, icon: str, side: int) -> Any:
    """(side, side, 3) in 0..1 on white."""
    from postdiff.embedded_model.training.icons import over_background, render_icon

    return over_background(render_icon(icon_set, icon, side)).astype("float32") / 255


def _shown(icons: list[str]) -> Any:
    from tqdm import tqdm

    return tqdm(icons, desc="rendering", unit="icon", disable=None)


def train(pictures: Any) -> tuple[Any, float]:
    """An encoder that tells these icons apart, whatever their style, and the share it gets right in the last steps."""
    import torch
    from _quality_encoder import FEATURES, Encoder
    from torch.nn import Linear
    from tqdm import tqdm

    torch.manual_seed(SEED)
    icons, styles = pictures.shape[:2]
    pictures = torch.from_numpy(pictures).permute(0, 1, 4, 2, 3)
    encoder, names = Encoder(), Linear(FEATURES, icons)
    parameters = [*encoder.parameters(), *names.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS)
    right: list[float] = []
    with torch.enable_grad(), tqdm(range(STEPS), desc="training", unit="step", disable=None) as progress:
        for _ in progress:
            chosen = torch.randint(icons, (BATCH,))
            batch = _shifted(pictures[chosen, torch.randint(styles, (BATCH,))].float() / 255)
            scores = names(encoder(batch))
            loss = torch.nn.functional.cross_entropy(scores, chosen, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            right.append(float((scores.argmax(1) == chosen).float().mean()))
            progress.set_postfix(loss=f"{loss.item():.2f}")
    last = right[-50:]
    return encoder.eval(), sum(last) / len(last)


def _shifted(batch: Any) -> Any:
    """The batch moved by up to a few pixels, one way for all; what comes in is white."""
    import torch

    padded = torch.nn.functional.pad(batch, (MAX_SHIFT,) * 4, value=1.0)
    top, left = torch.randint(2 * MAX_SHIFT + 1, (2,)).tolist()
    return padded[..., top : top + batch.shape[-2], left : left + batch.shape[-1]]


def save(file: Path, encoder: Any, detail: Any, about: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    weights = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    save_file({**weights, "detail": torch.from_numpy(detail).flatten()}, file, {"about": json.dumps(about)})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dev.py bench quality_encoder", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--downloads", type=Path, default=cache_folder() / "icons", help="where the icon packages lie or go"
    )
    _host.add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
