"""A run whose low-resolution stage fails starts again, with all steps at full size.

As with a node that keeps a hint of the full latent's size. What failed is told in the run's notes.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .architecture import Size, format_size
from .noise import draw_noise
from .run import Run
from .sampling_arguments import SamplingArguments, batch_index_of

log = logging.getLogger("postdiff")

# By name: einops and a compiled model have classes of their own. Some nodes divide by a run's steps less one, or go on
# with None where they find no factor of a size (SelfAttentionGuidance).
MAY_BE_OF_SIZE = (
    "RuntimeError",
    "IndexError",
    "ValueError",
    "AssertionError",
    "EinopsError",
    "TorchRuntimeError",
    "ZeroDivisionError",
    "TypeError",
)
OF_SIZE = re.compile(r"size|shape|dimension|broadcast|mismatch|out of (range|bounds)|\d ?[x,] ?\d", re.IGNORECASE)
OF_MEMORY = ("out of memory", "allocate memory", "not enough memory", "not enough GPU", "ALLOC_FAILED")


class FailedAttempt(NamedTuple):
    """How an attempt with a low-resolution stage failed, and whether its first evaluation did."""

    reason: str
    at_once: bool


class SizeError(Exception):
    """Something in the run cannot take a latent of another size."""

    def __init__(self, attempt: FailedAttempt) -> None:
        super().__init__(attempt.reason)
        self.attempt = attempt


def may_be_of_size(error: Exception) -> bool:
    """Whether a changed latent size could have caused this error; running out of memory is excluded."""
    is_of_memory = any(words in str(error) for words in OF_MEMORY)
    return type(error).__name__ in MAY_BE_OF_SIZE and not is_of_memory


@contextlib.contextmanager
def size_errors(run: Run, low: Size) -> Iterator[None]:
    """Raise what may come of a change of size as SizeError: a node that keeps a hint of the full latent's, say.

    Such an error speaks of sizes, or comes the first time that a stage is evaluated.
    """
    try:
        yield
    except Exception as error:
        if not may_be_of_size(error) or not (run.is_first_of_stage or OF_SIZE.search(str(error))):
            raise
        log.info("PostDiff: what failed with a low-resolution stage:", exc_info=error)
        reason = (
            f"something on the model failed in a run that begins at {format_size(low)} latents "
            f"({type(error).__name__}: {_first_line(error)})"
        )
        raise SizeError(FailedAttempt(reason, run.is_first_of_stage and run.stage.start == 0)) from error


@contextlib.contextmanager
def with_remedy(first: FailedAttempt) -> Iterator[None]:
    """Add a remedy to an error of the second attempt: a node may be unable to run twice.

    Not where the first attempt failed at once in the same way: then the size is not what is wrong.
    """
    try:
        yield
    except Exception as error:
        is_the_same = first.at_once and _without_numbers(_first_line(error)) in _without_numbers(first.reason)
        if is_the_same or not may_be_of_size(error):
            raise
        raise RuntimeError(
            f"{str(error) or type(error).__name__}\nBefore that, {first.reason}. If the graph runs without mixed "
            "resolution, set low_res_scale to 1; under a preset, put Mixed Resolution (patch) with low_res_scale 1 on "
            "the model."
        ) from error


def begin_anew(guider: Any, conds: dict[str, Any], sampling: SamplingArguments) -> None:
    """Put back what a failed attempt used up: the prompts, and the global generator's state after drawing the noise."""
    guider.conds = conds
    draw_noise(sampling.latent_image, sampling.seed, batch_index_of(guider))


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)


def _first_line(error: Exception) -> str:
    """A compiled model's errors go on for pages."""
    return str(error).partition("\n")[0]
