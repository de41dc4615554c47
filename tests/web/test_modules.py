"""The modules of web/ without a browser, in the Node.js that Playwright brings along."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from urllib.request import urlopen

from playwright._impl._driver import compute_driver_executable

from host import Server
from postdiff.postdiff_core import presets
from postdiff.postdiff_core.schedule import Settings

HERE = Path(__file__).resolve().parent
WEB = HERE.parents[1] / "web"
NODE = compute_driver_executable()[0]


def test_the_modules_pass_their_own_tests() -> None:
    tests = sorted(map(str, HERE.glob("*.test.mjs")))
    run = subprocess.run([NODE, "--test", *tests], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout


def test_a_browser_keeps_none_of_the_modules_when_the_pack_is_updated(server: Server) -> None:
    """ComfyUI tells it so for scripts and styles by their endings alone."""
    served = sorted(path for path in WEB.iterdir() if path.is_file())
    assert served
    for path in served:
        with urlopen(f"{server.url}/extensions/postdiff/{path.name}") as answer:
            assert "no-store" in answer.headers["Cache-Control"], path.name


def test_the_presets_of_the_canvas_are_those_of_python() -> None:
    module = (WEB / "presets.js").as_uri()
    script = (
        f"import({json.dumps(module)}).then((m) => console.log(JSON.stringify([m.PRESETS, m.UNKNOWN, m.DISTILLED])))"
    )
    run = subprocess.run([NODE, "-e", script], capture_output=True, text=True, check=True, timeout=60)
    on_canvas, unknown, distilled = json.loads(run.stdout)
    assert on_canvas == {**{name: shown(settings) for name, settings in presets.PRESETS.items()}, "off": {}}
    assert unknown == shown(presets.UNKNOWN)
    assert distilled == {"maxSteps": presets.MAX_DISTILLED_STEPS, "maxCfg": presets.MAX_DISTILLED_CFG}


def shown(settings: Settings) -> dict[str, dict]:
    """The techniques of a preset, without what a timeline does not show."""
    asked = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    for technique in asked.values():
        for unseen in ("upscale_method", "switch"):
            technique.pop(unseen, None)
    return asked
