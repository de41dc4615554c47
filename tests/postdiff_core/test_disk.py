"""A disk that refuses is named with the remedy, and what was there before stays whole."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from postdiff.postdiff_core import disk
from postdiff.postdiff_core.calibrate.store import SCORES, Store

ABOUT = {"model_class": "Tiny", "model": "abc"}
RUN = {"steps": 4, "prompt": "a cat"}


def test_a_file_is_replaced_once_all_is_written(tmp_path):
    file = tmp_path / "new" / "preset.json"
    for text in ("first", "second"):
        with disk.whole(file) as partial:
            partial.write_text(text)
    assert file.read_text() == "second" and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error"), KeyboardInterrupt()]
)
def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "preset.json"
    file.write_text("former")
    with pytest.raises((OSError, KeyboardInterrupt)), disk.whole(file) as partial:
        partial.write_text("half")
        raise error
    assert file.read_text() == "former" and list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_named_with_the_remedy_when_a_score_is_kept(tmp_path):
    store = Store(tmp_path, ABOUT)
    (store.folder / SCORES).symlink_to(Path("/dev/full"))
    with pytest.raises(OSError, match=r"cannot write in .*Tiny.*No space left on device.*Free some space.*queue again"):
        store.put_score(RUN, "PSNR", {"PSNR": 1.0})


def test_a_folder_that_takes_no_latents_is_named_with_the_remedy(tmp_path):
    store = Store(tmp_path, ABOUT)
    (store.folder / "runs").rmdir()
    (store.folder / "runs").write_text("a file in its place")
    with pytest.raises(OSError, match=r"cannot write in .*runs.*make the folder writable"):
        store.put_latent(RUN, torch.zeros(1, 4, 8, 8))


def test_a_place_where_no_folder_can_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "calibrations").write_text("a file in its place")
    with pytest.raises(OSError, match=r"cannot write in .*calibrations.*make the folder writable"):
        Store(tmp_path / "calibrations", ABOUT)
