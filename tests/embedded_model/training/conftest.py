"""A denoiser with random weights, and encoded pictures of nothing."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def text_to_image():
    from postdiff.embedded_model.training.captions import vocabulary
    from postdiff.embedded_model.training.diffusion import TextToImage

    torch.manual_seed(0)
    network = TextToImage(vocabulary())
    for parameter in network.parameters():  # nothing stays zero, or half the network would not be compared
        parameter.data = torch.randn_like(parameter) * 0.05
    return network


@pytest.fixture(scope="session")
def patches(tmp_path_factory):
    """The folder of the recipe's stage `patches`: random blanks, and icons that add nothing to them."""
    from postdiff.embedded_model.training.config import BACKGROUNDS, Recipe
    from postdiff.embedded_model.training.pictures import EIGHTHS, MARGIN, appearances, patch_file

    folder, settings = tmp_path_factory.mktemp("patches"), Recipe().pictures
    rng, backgrounds = np.random.default_rng(0), 1 + len(BACKGROUNDS)
    for side in settings.sides:
        cells = side // 8
        blanks = rng.standard_normal((backgrounds, 8, cells, cells)).astype(np.float16)
        np.save(folder / f"blanks-{side}.npy", blanks)
        for size in (settings.small, settings.large):
            length = cells * size // EIGHTHS + 2 * MARGIN
            shape = (len(appearances()), backgrounds, 8, length, length)
            np.lib.format.open_memmap(patch_file(folder, side, size), "w+", np.float16, shape)  # a sparse file of zeros
    return folder
