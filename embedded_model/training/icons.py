"""Fetch the icon packages from npm and render them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from .config import STYLES


def fetch_icon_set(style: str, folder: Path) -> dict:
    """The icon package of a style as Iconify JSON, downloaded with `npm pack` on first use."""
    package, version = STYLES[style]
    archive = folder / f"{package.strip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise RuntimeError(
                f"npm is needed to fetch {package} {version}: install Node.js, or put {archive.name} into {folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "pack", f"{package}@{version}"], cwd=folder, check=True, capture_output=True)
    with tarfile.open(archive) as tar:
        icons = tar.extractfile("package/icons.json")
        if icons is None:
            raise RuntimeError(f"{archive} holds no icons: delete it and run again")
        return json.load(icons)


def render_icon(icon_set: dict, name: str, side: int) -> np.ndarray:
    """One icon as (side, side, 4) uint8, straight alpha."""
    import resvg_py

    icon = icon_set["icons"][name]
    width = icon.get("width", icon_set.get("width", 16))
    height = icon.get("height", icon_set.get("height", 16))
    left, top = icon.get("left", 0), icon.get("top", 0)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{side}" height="{side}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA").resize((side, side)))


def render_all(
    folder: Path, downloads: Path, concept_icons: list[str], concept_side: int = 512, corpus_side: int = 256
) -> None:
    """Write `concepts.npy` (concepts, styles, side, side, RGBA) and `corpus.npy`: every icon that both packages have.

    The autoencoder learns from the corpus, so that it knows more than the concepts of one version of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    icon_sets = [fetch_icon_set(style, downloads) for style in STYLES]
    shared = sorted(set.intersection(*({n for n in s["icons"] if "skin-tone" not in n} for s in icon_sets)))
    for file, names, side in (("concepts.npy", concept_icons, concept_side), ("corpus.npy", shared, corpus_side)):
        listed = folder / file.replace(".npy", ".txt")
        if (folder / file).exists() and listed.exists() and listed.read_text().split() == names:
            continue
        part = folder / f"{file}.part"
        pictures = np.lib.format.open_memmap(part, "w+", np.uint8, (len(names), len(STYLES), side, side, 4))
        for i, name in enumerate(tqdm(names, desc=f"rendering {file}", unit="icon")):
            pictures[i] = [render_icon(icon_set, name, side) for icon_set in icon_sets]
        del pictures  # written, and closed: an open file cannot be renamed everywhere
        part.replace(folder / file)
        listed.write_text("\n".join(names) + "\n")


def over_background(rgba: np.ndarray, background: tuple[int, int, int] | np.ndarray = (255, 255, 255)) -> np.ndarray:
    """Straight-alpha (..., 4) uint8 over a colour -> (..., 3) uint8."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgba[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)).astype(np.uint8)
