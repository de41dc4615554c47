"""What the registry gets: packed by its own tools, and complete. `dev.py package` starts it in servers as well."""

import importlib.util
import sys
from pathlib import Path

import pytest

import environment
import package
from pack import ROOT


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> package.Release:
    """A clone of the last commit, and the registry's tools beside this Python's packages."""
    tools = environment.ReleaseTools(environment.cache_folder(), Path(sys.executable))
    tools.set_up()
    made = package.Release(tmp_path_factory.mktemp("a release"), tools.python)
    made.clone_commit()
    return made


@pytest.fixture(scope="module")
def unpacked(release) -> Path:
    release.pack()
    return release.unpacked


def test_the_registry_accepts_the_pack(release):
    release.check_rules()
    release.validate()


def test_the_packs_own_linter_has_nothing_to_say(release):
    release.lint()


def test_the_zip_holds_no_tests_no_results_no_pictures_of_the_repository(unpacked):
    held = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert {path.partition("/")[0] for path in held} == package.SHIPPED
    assert not [path for path in held if Path(path).name.startswith((".", "test_")) or "results" in path]
    assert held >= {"embedded_model/postdiff_emoji.safetensors", "web/docs/PostDiffKSampler.md", "web/timeline.js"}


def test_a_file_too_many_in_the_zip_is_named(release, unpacked, monkeypatch):
    monkeypatch.setattr(package, "SHIPPED", package.SHIPPED - {"LICENSE"})
    with pytest.raises(package.Failed, match="not in both: LICENSE"):
        release.pack()


def test_the_nodes_load_from_the_unpacked_zip(unpacked):
    """In a package of another name, as in a user's folder, and without the repository beside it."""
    name = "unpacked_pack"
    spec = importlib.util.spec_from_file_location(
        name, unpacked / "__init__.py", submodule_search_locations=[str(unpacked)]
    )
    packed = importlib.util.module_from_spec(spec)
    sys.modules[name] = packed
    try:
        spec.loader.exec_module(packed)
        loaded = {module: Path(found.__file__) for module, found in sys.modules.items() if module.startswith(name)}
        from unpacked_pack.embedded_model.loader import load_embedded_model

        assert len(load_embedded_model()) == 3, "model, text encoder, VAE"
    finally:
        for module in [module for module in sys.modules if module.startswith(name)]:
            del sys.modules[module]
    assert len(loaded) > 10
    assert all(file.is_relative_to(unpacked) for file in loaded.values())


def test_nothing_is_told_to_anyone_and_nothing_is_kept_in_the_users_home(release):
    said = release.environment
    assert said["DO_NOT_TRACK"] == said["COMFY_NO_TELEMETRY"] == "1"
    assert Path(said["HOME"]) == Path(said["XDG_CONFIG_HOME"]) == release.folder


def test_nothing_is_required_that_comfyui_does_not_bring():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert "dependencies = []" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
