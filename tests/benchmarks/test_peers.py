"""Other packs beside PostDiff: what cannot be loaded is shown as such, and loses nothing else."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import peers
from _measure import attempt

NODE = """
class Patch:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "strength": ("FLOAT", {"default": 1.0})}}

    RETURN_TYPES, FUNCTION = ("MODEL",), "patch"

    def patch(self, model, strength):
        return (model.clone(),)

NODE_CLASS_MAPPINGS = {"APatch": Patch}
"""


def pack(folder, content):
    folder.mkdir()
    (folder / "__init__.py").write_text(content)
    return ["--pack", str(folder)]


def test_a_pack_that_cannot_be_loaded_is_shown_with_its_error_beside_one_that_can(tmp_path):
    broken = pack(tmp_path / "broken", "raise ImportError('no module named xformers')")
    working = pack(tmp_path / "working", NODE)
    found = peers._packs(peers.command_line().parse_args(["speed", *broken, *working]))
    assert [each.name for each in found] == ["APatch", "broken"]
    assert "could not import it" in attempt(lambda: found[1].prepare({}))


def test_without_a_name_every_table_is_made(monkeypatch):
    made = []
    monkeypatch.setattr(peers._host, "start", lambda options: setattr(options, "device", "cpu"))
    monkeypatch.setattr(peers, "measure", lambda options: made.append((options.what, options.device)))
    monkeypatch.setattr(sys, "argv", ["peers"])
    peers.main()
    assert made == [("speed", "cpu"), ("error", "cpu"), ("reuse", "cpu")]
