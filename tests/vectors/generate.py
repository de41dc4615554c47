"""Write schedule.json: what every step of a run does, counted out step by step.

Shared by the tests of postdiff_core/schedule.py and web/plan.js, and written with neither: here fractions are exact,
and each step is decided by looking at the steps before it. Run `python tests/vectors/generate.py` to write the file.

A case is {name, total, settings, notes, plan}: `settings` as the nodes name them, `notes` how many remarks the plan
carries, `plan` what `Step.document()` gives for every step under uniform timesteps.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("schedule.json")
FRACTIONS = ("0.0", "0.05", "0.2", "0.25", "0.33", "0.45", "0.5", "0.6", "0.75", "0.9", "0.95", "1.0")


def mixed(low_res_until: str, low_res_scale: str = "0.5") -> dict[str, Any]:
    return {"mixed_resolution": {"low_res_scale": low_res_scale, "low_res_until": low_res_until}}


def deep(interval: int, start_percent: str = "0.0", end_percent: str = "1.0") -> dict[str, Any]:
    return {
        "deep_cache": {"interval": interval, "depth": 2, "start_percent": start_percent, "end_percent": end_percent}
    }


def cross_attn(start_percent: str) -> dict[str, Any]:
    return {"cross_attn_cache": {"start_percent": start_percent, "mode": "cond"}}


def cutoff(start_percent: str) -> dict[str, Any]:
    return {"cfg_cutoff": {"start_percent": start_percent}}


def everything(until: str, scale: str, interval: int, percent: str) -> dict[str, Any]:
    return mixed(until, scale) | deep(interval) | cross_attn(percent) | cutoff(percent)


def asked_for() -> list[tuple[str, int, dict[str, Any]]]:
    """Name, number of steps and settings of every case."""
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("paper, SD1.5", 20, everything("0.5", "0.5", 2, "0.75")),
        ("paper, LCM", 8, mixed("0.5") | cross_attn("0.5") | cutoff("0.5")),
        ("paper, SDXL", 20, everything("0.2", "0.75", 2, "0.75")),
        ("paper, PixArt-alpha", 20, mixed("0.5", "0.75") | cross_attn("0.75") | cutoff("0.75")),
        ("nothing asked for", 4, {}),
        ("all neutral", 6, mixed("0.0", "1.0") | deep(1) | cutoff("1.0")),
        ("scale 1 is off whatever the fraction", 6, mixed("0.5", "1.0")),
        ("the switch restarts the interval", 11, mixed("0.5") | deep(4)),
        ("the window restarts the interval", 11, mixed("0.25") | deep(3, "0.5")),
        ("the switch inside the window", 14, mixed("0.5") | deep(3, "0.2", "0.8")),
        ("the window ends before the switch", 14, mixed("0.75") | deep(2, "0.0", "0.5")),
        ("a window of one step", 10, deep(2, "0.5", "0.6")),
        ("everything from the first step on", 5, mixed("1.0") | deep(20) | cross_attn("0.0") | cutoff("0.0")),
        ("cut-off before cross-attention", 10, cross_attn("0.75") | cutoff("0.5")),
        ("cross-attention before cut-off", 10, cross_attn("0.5") | cutoff("0.75")),
        ("reuse from before the switch", 10, mixed("0.6") | cross_attn("0.2") | cutoff("0.9")),
    ]
    for total in (1, 2, 3, 4, 5, 7):
        cases.append((f"all techniques in {total}", total, everything("0.5", "0.5", 2, "0.75")))
        cases.append((f"low resolution to the end of {total}", total, mixed("1.0")))
    for fraction in FRACTIONS:
        for total in (7, 20):
            cases.append((f"everything at {fraction} of {total}", total, everything(fraction, "0.5", 3, fraction)))
    cases += [(f"interval {interval}", 13, mixed("0.4") | deep(interval)) for interval in (1, 2, 3, 5, 13, 20)]
    return cases


def steps(total: int, settings: dict[str, Any]) -> tuple[list[dict[str, str]], int]:
    """The plan, and how many remarks it carries."""
    stock = {"stage": "full", "deep": "off", "xattn": "off", "cfg": "on"}
    if total < 3:
        return [dict(stock) for _ in range(total)], 1 if settings else 0

    def has_reached(i: int, fraction: str) -> bool:
        return Fraction(i, total) >= Fraction(fraction)

    plan: list[dict[str, str]] = []
    notes = 0
    since_refresh = None
    for i in range(total):
        step = dict(stock)
        asked = settings.get("mixed_resolution")
        if asked and asked["low_res_scale"] != "1.0" and not has_reached(i, asked["low_res_until"]):
            if i < total - 2:
                step["stage"] = "low"
            else:
                notes = 1
        asked = settings.get("deep_cache")
        in_window = asked and has_reached(i, asked["start_percent"]) and not has_reached(i, asked["end_percent"])
        if in_window and asked["interval"] > 1:
            switches = bool(plan) and plan[-1]["stage"] != step["stage"]
            if since_refresh is None or switches or since_refresh + 1 == asked["interval"]:
                step["deep"], since_refresh = "refresh", 0
            else:
                step["deep"], since_refresh = "reuse", since_refresh + 1
        asked = settings.get("cross_attn_cache")
        if asked:
            step["xattn"] = "reuse" if i > 0 and has_reached(i, asked["start_percent"]) else "compute"
        asked = settings.get("cfg_cutoff")
        if asked and has_reached(i, asked["start_percent"]):
            step["cfg"] = "off"
        plan.append(step)
    return plan, notes


def as_numbers(settings: dict[str, Any]) -> dict[str, Any]:
    """The fractions, kept as text so that they are exact, as JSON numbers."""

    def number(name: str, value: Any) -> Any:
        return float(value) if name.endswith(("percent", "scale", "until")) else value

    return {
        technique: {name: number(name, value) for name, value in fields.items()}
        for technique, fields in settings.items()
    }


def cases() -> list[dict[str, Any]]:
    documents = []
    for name, total, settings in asked_for():
        plan, notes = steps(total, settings)
        documents.append({"name": name, "total": total, "settings": as_numbers(settings), "notes": notes, "plan": plan})
    return documents


def text() -> str:
    """The file: one line a step."""
    blocks = []
    for case in cases():
        head = ",\n   ".join(f'"{key}": {json.dumps(case[key])}' for key in ("name", "total", "settings", "notes"))
        plan = ",\n    ".join(json.dumps(step) for step in case["plan"])
        blocks.append(f'  {{{head},\n   "plan": [\n    {plan}]}}')
    return "[\n" + ",\n".join(blocks) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
