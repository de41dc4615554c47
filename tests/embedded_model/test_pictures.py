"""The shipped model draws what its prompts say, and random weights do not."""

import pytest
import torch

from postdiff.embedded_model.loader import RECOMMENDED, WEIGHTS
from postdiff.embedded_model.training.captions import Prompt
from postdiff.embedded_model.training.evaluate import Sampler
from postdiff.embedded_model.training.judge import Judge

PROMPTS = (
    "noto red apple",
    "fluent red apple",
    "noto butterfly",
    "noto hamburger",
    "noto mushroom",
    "fluent crab",
    "fluent sunflower",
    "fluent fox",
    "noto lemon on a blue background",
    "fluent christmas tree on a pink background",
    "fluent crab and sunflower",
    "fluent dog and ufo",
)
STEPS = 8


@pytest.fixture(scope="module")
def judge():
    return Judge.shipped()


def right(sampler: Sampler, judge: Judge, half_start: bool = False) -> list[str]:
    sample = sampler.half_start if half_start else sampler.full
    return [prompt for seed, prompt in enumerate(PROMPTS) if judge.right(sample(prompt, seed), Prompt.parse(prompt))]


@pytest.mark.parametrize("half_start", [False, True], ids=["full", "half start"])
def test_pictures_show_what_their_prompts_say(judge, half_start):
    sampler = Sampler(WEIGHTS, STEPS, RECOMMENDED["cfg"])
    assert len(right(sampler, judge, half_start)) >= len(PROMPTS) - 1


def test_random_weights_fail_the_judge(judge):
    sampler = Sampler(WEIGHTS, 1, RECOMMENDED["cfg"])
    torch.manual_seed(0)
    for parameter in sampler.model.model.diffusion_model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.02)
    assert len(right(sampler, judge)) <= 2
