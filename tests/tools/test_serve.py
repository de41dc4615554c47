"""The canvas that `dev.py serve` opens."""

import folder_paths
from utils.extra_config import load_extra_path_config

import serve


def test_the_models_of_the_comfyui_are_there(tmp_path, monkeypatch):
    comfyui, base = tmp_path / "ComfyUI", tmp_path / "base"
    for folder in (comfyui / "models" / "checkpoints", comfyui / "models" / "loras", base):
        folder.mkdir(parents=True)
    (comfyui / "models" / "a file").touch()
    found = {}
    monkeypatch.setattr(
        folder_paths, "add_model_folder_path", lambda kind, path, is_default: found.update({kind: path})
    )
    load_extra_path_config(str(serve.models_of(comfyui, base)))
    assert found == {kind: str(comfyui / "models" / kind) for kind in ("checkpoints", "loras")}
