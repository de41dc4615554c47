"""Packs that change guidance."""

import other_packs
from companions import Inputs
from composition import Row
from other_packs import Pack


def dynamic_thresholding(inputs: Inputs) -> Inputs:
    (model,) = other_packs.run("DynamicThresholdingSimple", model=inputs["model"], mimic_scale=3.0)
    return inputs | {"model": model}


PACKS = (
    Pack(
        "mcmonkeyprojects/sd-dynamic-thresholding",
        "73e4e04",
        (Row("DynamicThresholdingSimple", "guidance", dynamic_thresholding),),
        has="DynamicThresholdingSimple",
    ),
)
