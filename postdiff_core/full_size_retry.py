"""A run whose low-resolution stage fails starts again, with all steps at full size.

As with a node that keeps a hint of the full latent's size. What failed is told in the run's notes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from .architecture import Size, in_words
from .sampling_arguments import SamplingArguments, batch_index_of, draw_noise

log = logging.getLogger("postdiff")

# By name: einops and a compiled model have classes of their own.
MAY_BE_OF_SIZE = ("RuntimeError", "IndexError", "ValueError", "AssertionError", "EinopsError", "TorchRuntimeError")


class SizeError(Exception):
    """Something in the run cannot take a latent of another size; says at which it failed, and how."""


def may_be_of_size(error: Exception) -> bool:
    """Whether a changed latent size could have caused this error; running out of memory is excluded."""
    is_of_memory = any(words in str(error) for words in ("out of memory", "allocate memory", "ALLOC_FAILED"))
    return type(error).__name__ in MAY_BE_OF_SIZE and not is_of_memory


@contextlib.contextmanager
def size_errors(low: Size) -> Iterator[None]:
    """Raise what may come of a change of size as SizeError: a node that keeps a hint of the full latent's, say."""
    try:
        yield
    except Exception as error:
        if not may_be_of_size(error):
            raise
        log.info("PostDiff: what failed with a low-resolution stage:", exc_info=error)
        raise SizeError(
            f"something on the model failed when the run began at {in_words(low)} latents "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


@contextlib.contextmanager
def with_remedy(first_failure: str) -> Iterator[None]:
    """Add a remedy to an error of the second attempt: a node may be unable to run twice."""
    try:
        yield
    except Exception as error:
        if not may_be_of_size(error):
            raise
        raise RuntimeError(
            f"{str(error) or type(error).__name__}\nBefore that, {first_failure}. If the graph runs without mixed "
            "resolution, set low_res_scale to 1; under a preset, put Mixed Resolution (patch) with low_res_scale 1 on "
            "the model."
        ) from error


def begin_anew(guider: Any, conds: dict[str, Any], sampling: SamplingArguments) -> None:
    """Put back what a failed attempt used up: the prompts, and the global generator's state after drawing the noise."""
    guider.conds = conds
    draw_noise(sampling.latent_image.cpu(), sampling.seed, batch_index_of(guider))


def _first_line(error: Exception) -> str:
    """A compiled model's errors go on for pages."""
    return str(error).partition("\n")[0]
