"""Training pictures: where their icons lie, and that composed latents are what the autoencoder gives."""

import numpy as np
import pytest
import torch
from PIL import Image

from postdiff.embedded_model.architecture import DOWNSCALE, Autoencoder
from postdiff.embedded_model.training.autoencoder import to_tensor
from postdiff.embedded_model.training.captions import Prompt
from postdiff.embedded_model.training.config import BACKGROUNDS, Recipe, concepts
from postdiff.embedded_model.training.pictures import (
    EIGHTHS,
    Composer,
    Scene,
    appearances,
    blank,
    draw_scene,
    encode_icon,
    forget_other_patches,
    paste,
    patch_file,
)

RECIPE = Recipe()
SETTINGS = RECIPE.pictures
CAR, APPLE = ("noto", "car"), ("noto", "red apple")


def scenes(prompt: Prompt, number: int = 300) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [draw_scene(prompt, SETTINGS, rng) for _ in range(number)]


def test_one_object_varies_in_place_size_and_direction():
    items = [scene.items[0] for scene in scenes(Prompt(CAR[0], (CAR[1],)))]
    for size in (SETTINGS.small, SETTINGS.large):
        assert len({(item.x, item.y) for item in items if item.size == size}) == SETTINGS.places**2
    assert {item.mirrored for item in items} == {False, True}


def test_an_icon_that_faces_forward_is_never_mirrored():
    assert not any(scene.items[0].mirrored for scene in scenes(Prompt(APPLE[0], (APPLE[1],))))


def test_the_objects_centre_varies_by_more_than_a_twentieth_of_the_side():
    items = [scene.items[0] for scene in scenes(Prompt(CAR[0], (CAR[1],)))]
    centres = np.array([((item.x + item.size / 2) / EIGHTHS, (item.y + item.size / 2) / EIGHTHS) for item in items])
    assert centres.std(axis=0).min() > 0.1


@pytest.mark.parametrize("names", [("car",), ("car", "red apple")])
def test_objects_lie_whole_in_the_picture_on_the_latent_grid_and_never_touch(names):
    cells = [side // DOWNSCALE for side in SETTINGS.sides]
    for scene in scenes(Prompt("noto", names)):
        covered = np.zeros((EIGHTHS, EIGHTHS), int)
        for item in scene.items:
            assert 0 <= min(item.x, item.y) <= max(item.x, item.y) <= EIGHTHS - item.size
            assert all(corner * n % EIGHTHS == 0 for corner in (item.x, item.y) for n in cells)
            covered[item.y : item.y + item.size, item.x : item.x + item.size] += 1
        assert covered.max() == 1


def test_two_objects_take_either_order_side_by_side_and_one_above_the_other():
    pairs = [scene.items for scene in scenes(Prompt("noto", ("car", "red apple")))]
    assert any(first.x < second.x for first, second in pairs)
    assert any(first.x > second.x for first, second in pairs)
    assert any(first.x == second.x for first, second in pairs)


def icon(colour=(200, 30, 30), side=96) -> Image.Image:
    """A disc on nothing."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    rgba = np.zeros((side, side, 4), np.uint8)
    rgba[np.hypot(x, y) < side * 0.45] = (*colour, 255)
    return Image.fromarray(rgba)


def test_an_icon_is_pasted_where_its_scene_says_over_the_background():
    prompt = Prompt("noto", ("car", "red apple"), "blue")
    for scene in scenes(prompt, 20):
        picture = paste(scene, 64, {CAR: icon((1, 2, 3)), APPLE: icon((200, 9, 9))})
        for item, colour in zip(scene.items, ((1, 2, 3), (200, 9, 9)), strict=True):
            centre = [round((corner + item.size / 2) * 8) for corner in (item.y, item.x)]
            assert tuple(picture[tuple(centre)]) == colour
        assert (picture == BACKGROUNDS["blue"]).all(axis=-1).mean() > 0.2


def patches_of_two_icons(folder, autoencoder, side):
    """The files `encode_patches` would write, with content only where the test looks."""
    rows = {appearance: row for row, appearance in enumerate(appearances())}
    drawings = {CAR: icon((30, 90, 200)), APPLE: icon((200, 30, 30))}
    for s in SETTINGS.sides:
        np.save(folder / f"blanks-{s}.npy", blank(autoencoder, s).half().numpy())
        for size in (SETTINGS.small, SETTINGS.large):
            pixels = s * size // EIGHTHS
            empty = blank(autoencoder, pixels + 48)
            encoded = {key: encode_icon(drawings[key], pixels, False, autoencoder, empty) for key in drawings}
            shape = (len(rows), *encoded[CAR].shape)
            file = np.lib.format.open_memmap(patch_file(folder, s, size), "w+", np.float16, shape)
            for (style, name), latents in encoded.items():
                file[rows[style, name, False]] = latents.numpy()
            file.flush()
    return drawings


@pytest.mark.parametrize("background", [None, "purple"])
def test_composed_latents_are_nearly_those_of_the_whole_picture(tmp_path, background):
    torch.manual_seed(0)
    with torch.no_grad():
        autoencoder = Autoencoder().eval()
        drawings = patches_of_two_icons(tmp_path, autoencoder, 128)
        composer = Composer(SETTINGS, tmp_path)
        several = scenes(Prompt("noto", ("red apple",), background), 6)
        several += scenes(Prompt("noto", ("red apple", "red apple"), background), 6)
        for scene in several:
            whole = autoencoder.encode(to_tensor(paste(scene, 128, drawings)[None]))[0]
            plain = composer.blanks[128][composer.background[background]]
            error = (composer.latents(scene, 128) - whole).square().mean().sqrt()
            assert error < 0.1 * (whole - plain).square().mean().sqrt()


def test_patches_are_kept_until_the_recipe_draws_other_pictures(tmp_path, monkeypatch):
    """Or another autoencoder encodes them."""
    patch, autoencoder = tmp_path / "patches-128-4.npy", Autoencoder()
    forget_other_patches(tmp_path, autoencoder)
    patch.touch()
    forget_other_patches(tmp_path, autoencoder)
    assert patch.exists()
    forget_other_patches(tmp_path, Autoencoder())
    assert not patch.exists()
    patch.touch()
    monkeypatch.setitem(BACKGROUNDS, "brown", (120, 80, 40))
    forget_other_patches(tmp_path, autoencoder)
    assert not patch.exists()


def test_every_appearance_of_every_icon_has_a_row():
    listed = appearances()
    assert len(set(listed)) == len(listed)
    assert len(listed) == 2 * (len(concepts()) + sum(concept.mirrored for concept in concepts()))
