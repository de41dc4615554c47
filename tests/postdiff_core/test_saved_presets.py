"""Presets in the user's folder: kept as they were, whatever the name, and refused with the remedy when damaged."""

import json

import pytest

from postdiff.postdiff_core import presets, saved_presets
from postdiff.postdiff_core.schedule import CFGCutoff, CrossAttnCache, DeepCache, MixedResolution, Settings

EVERYTHING = Settings(
    MixedResolution(0.6, 0.35, "bicubic"), DeepCache(3, 4, 0.1, 0.9), CrossAttnCache(0.4, "average"), CFGCutoff(0.55)
)


@pytest.fixture(autouse=True)
def user_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("folder_paths.get_system_user_directory", lambda name: str(tmp_path / name))


@pytest.mark.parametrize("settings", [EVERYTHING, Settings(), Settings(deep_cache=DeepCache())])
def test_a_preset_gives_back_the_settings_it_was_saved_with(settings):
    saved_presets.save("mine", settings, {})
    assert saved_presets.load("mine") == settings


def test_saved_presets_are_offered_after_the_built_in_ones():
    for name in ("zebra", "Apple"):
        saved_presets.save(name, EVERYTHING, {})
    assert presets.choices() == [*presets.CHOICES, "Apple", "zebra"]


def test_saving_again_replaces():
    saved_presets.save("mine", EVERYTHING, {})
    saved_presets.save("mine", Settings(), {})
    assert saved_presets.load("mine") == Settings()
    assert saved_presets.names() == ["mine"]


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("my model", "my model"),
        ("../../etc/passwd", "etc_passwd"),
        ("a\\b:c*d", "a_b_c_d"),
        ("  .hidden. ", "hidden"),
        ("\u65e5\u672c\u8a9e \u30e2\u30c7\u30eb", "\u65e5\u672c\u8a9e \u30e2\u30c7\u30eb"),
        ("con", "con_"),
        ("LPT1.json", "LPT1.json_"),
        ("x" * 300, "x" * 60),
        ("line\nbreak", "line_break"),
        ("caf\u0065\u0301", "caf\u00e9"),  # composed, as it is typed elsewhere
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),  # marks are vowels
    ],
)
def test_a_name_becomes_one_that_every_system_accepts_for_a_file(name, file_name):
    assert saved_presets.file_name(name) == file_name
    assert saved_presets.save(name, EVERYTHING, {}).parent == saved_presets.folder()
    assert saved_presets.names() == [file_name]


@pytest.mark.parametrize("name", ["", "  ", "...", "/", "?*"])
def test_a_name_of_which_nothing_is_left_is_refused(name):
    with pytest.raises(ValueError, match="is not a valid preset name"):
        saved_presets.file_name(name)


@pytest.mark.parametrize("name", ["gone", "../mine"])
def test_a_missing_preset_is_named_with_the_remedy(name):
    saved_presets.save("mine", EVERYTHING, {})
    with pytest.raises(ValueError, match=rf"no preset '{name}' in .*presets.*PostDiff Calibrate"):
        saved_presets.load(name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda document: document["settings"]["mixed_resolution"].update(low_res_scale=7), "low_res_scale .* is 7"),
        (lambda document: document["settings"]["mixed_resolution"].update(low_res_scale="half"), "TypeError"),
        (lambda document: document["settings"]["deep_cache"].update(depth=2.0), "depth is 2.0; .* whole number"),
        (lambda document: document["settings"].update(teleport={}), "do.* not know: teleport"),
        (lambda document: document["settings"]["deep_cache"].update(width=2), "width"),
        (lambda document: document.update(format=99), "format is 99"),
        (lambda document: document.pop("settings"), "settings"),
        (lambda document: document.update(settings=[]), "AttributeError"),
    ],
)
def test_a_preset_that_was_changed_by_hand_is_refused_with_the_reason(change, reason):
    file = saved_presets.save("mine", EVERYTHING, {})
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"mine\.json.*{reason}.*Calibrate again") as refusal:
        saved_presets.load("mine")
    assert ".." not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000], ids=lambda each: each[:3])
def test_a_damaged_preset_is_refused_and_the_others_still_work(content):
    saved_presets.save("good", EVERYTHING, {})
    saved_presets.save("bad", EVERYTHING, {}).write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.json cannot be read"):
        saved_presets.load("bad")
    assert saved_presets.load("good") == EVERYTHING


def test_only_files_that_are_presets_are_offered():
    file = saved_presets.save("mine", EVERYTHING, {})
    (file.parent / "a folder.json").mkdir()
    (file.parent / "._mine.json").write_bytes(b"what macOS leaves on other disks")
    assert saved_presets.names() == ["mine"]


def test_a_file_with_a_byte_order_mark_is_read():
    file = saved_presets.save("mine", EVERYTHING, {})
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert saved_presets.load("mine") == EVERYTHING
