"""A denoiser with random weights, and encoded pictures of nothing."""

import numpy as np
import pytest
import torch

from postdiff.embedded_model.training.captions import vocabulary
from postdiff.embedded_model.training.config import Recipe
from postdiff.embedded_model.training.diffusion import TextToImage
from postdiff.embedded_model.training.pictures import appearances, patch_file


@pytest.fixture(scope="module")
def text_to_image():
    torch.manual_seed(0)
    network = TextToImage(vocabulary())
    for parameter in network.parameters():  # nothing stays zero, or half the network would not be compared
        parameter.data = torch.randn_like(parameter) * 0.05
    return network


def write_blank_patches(folder, rng):
    folder.mkdir()
    for side in Recipe().pictures.sides:
        cells = side // 8
        np.save(folder / f"blanks-{side}.npy", rng.standard_normal((9, 8, cells, cells)).astype(np.float16))
        for size in (Recipe().pictures.small, Recipe().pictures.large):
            shape = (len(appearances()), 9, 8, cells * size // 8 + 4, cells * size // 8 + 4)
            np.lib.format.open_memmap(patch_file(folder, side, size), "w+", np.float16, shape)  # a sparse file of zeros


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "patches"
    write_blank_patches(folder, np.random.default_rng(0))
    return folder
