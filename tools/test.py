"""Run the tests: all of them, a few files at a time, where none is named.

Every argument is passed on to pytest; where no test is named, --core stands for the core suite.
"""

import os
import sys
from pathlib import Path

import pytest

from pack import ROOT

# What can break with another release of ComfyUI, in a minute: node schemas, the wrappers around a run against stock
# runs and the plain-torch reference, and a real server that draws pictures.
CORE = (
    "tests/nodes/test_schemas.py",
    "tests/nodes/test_neutral_settings.py::test_neutral_settings_leave_the_latent_bit_identical[sd15-euler]",
    "tests/nodes/test_neutral_settings.py::test_neutral_settings_leave_the_latent_bit_identical[pixart_alpha-euler]",
    "tests/nodes/test_refusals.py::test_a_guider_of_more_than_two_prompts_is_not_cut_off_and_says_so",
    "tests/postdiff_core/test_together.py::test_the_paper_settings_equal_the_reference[sd15-1-7]",
    "tests/postdiff_core/test_together.py::test_the_paper_settings_equal_the_reference[pixart_alpha-2-5]",
    "tests/postdiff_core/test_together.py::test_the_paper_settings_for_sdxl_equal_the_reference",
    "tests/postdiff_core/test_mixed_resolution.py::test_inpainting_composites_at_the_switch",
    "tests/postdiff_core/test_run.py::test_after_a_run_everything_is_as_before",
    "tests/host/test_server.py::test_every_node_is_on_the_canvas_menu_under_postdiff",
    "tests/host/test_server.py::test_the_samplers_inputs_begin_with_the_stock_ksamplers",
    "tests/host/test_server.py::test_the_samplers_offer_every_sampler_and_scheduler_of_the_host",
    "tests/host/test_server.py::test_a_patch_on_a_model_it_cannot_act_on_fails_in_the_canvas_with_the_node_named",
    "tests/host/test_server.py::test_the_first_workflow_draws_its_pictures",
)


# A worker takes about 2 GB at its largest: torch, a server, a browser.
WORKERS = min(4, os.cpu_count() or 1)
# Reordered, the files of the fewest tests would come last, and those take the longest.
PARALLEL = ["--numprocesses", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"]


def main(arguments: list[str]) -> int:
    here = Path.cwd()
    os.chdir(ROOT)  # where pyproject.toml has pytest's settings
    given = [from_root(here, each) for each in arguments if each != "--core"]
    if any(names_tests(here, each) for each in arguments):
        return pytest.main(given)
    if "--core" in arguments:
        return pytest.main([*given, *CORE])
    return pytest.main(given if "--pdb" in given else [*PARALLEL, *given])


def names_tests(here: Path, argument: str) -> bool:
    path = (here / argument.partition("::")[0]).resolve()
    return os.path.exists(path) and path.is_relative_to(ROOT / "tests")  # False for what is too long for a path


def from_root(here: Path, argument: str) -> str:
    """An argument with its path, if it names a test file or folder, turned absolute."""
    path, separator, test = argument.partition("::")
    return f"{(here / path).resolve()}{separator}{test}" if names_tests(here, argument) else argument


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
