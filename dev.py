"""One command for a fresh machine: set up a real ComfyUI outside this repository, then run tools/<command>.py in it.

    python dev.py demo                 pictures with and without PostDiff, side by side
    python dev.py serve [flags]        ComfyUI in the browser with this pack loaded; flags go to ComfyUI
    python dev.py test [arguments]     every test; arguments go to pytest
    python dev.py check                style, types and rules
    python dev.py package              what the registry and ComfyUI-Manager get: packed, checked, installed, started
    python dev.py bench NAME           the benchmark benchmarks/NAME.py
    python dev.py evaluate             pictures and scores of many prompts, on many GPUs
    python dev.py screenshots          pictures of the real canvas, for the README and the help pages
    python dev.py workflows            workflows/*.json, from the graphs that tools/workflows.py describes
    python dev.py locales              the words of the nodes for translation, and what each language lacks
    python dev.py env                  where everything is, as one JSON object

Options, anywhere on the line:
    --comfyui PATH    use this ComfyUI, with the Python that runs dev.py, and set up nothing (also: COMFYUI_PATH)
    --host VERSION    another release of ComfyUI (tests/host-lock.json has them); `test` then runs the core suite.
                      `test --host all` goes through all releases and writes the table in README.md.

ComfyUI and its Python environment lie in the user's cache folder (POSTDIFF_CACHE moves it). Standard library only.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from environment import (  # noqa: E402
    Host,
    ReleaseTools,
    SetupError,
    cache_folder,
    clean_environment,
    developer_tools,
    missing_packages,
    say,
)

COMMANDS = (
    "demo",
    "serve",
    "test",
    "check",
    "package",
    "bench",
    "evaluate",
    "screenshots",
    "workflows",
    "locales",
    "env",
)
WITHOUT_ARGUMENTS = ("check", "package", "workflows", "locales", "env")
OF_COMFYUI = ("torch", "aiohttp", "psutil")  # some of what every ComfyUI has
FEW_TOOLS = {  # what commands need that run on machines of other people's; the others need every developer tool
    "demo": (),
    "serve": (),
    "bench": ("matplotlib", "torchmetrics"),
    "workflows": (),
    "locales": (),
    "evaluate": ("matplotlib", "pyarrow", "ray", "torchmetrics"),
}


def choose_host(comfyui, version):
    """(python, comfyui): the user's own ComfyUI with this Python, or one in the cache, set up if need be."""
    given = comfyui or (None if version else os.environ.get("COMFYUI_PATH"))
    if given and version:
        raise SetupError("--comfyui and --host each name a ComfyUI.", "Leave one of them out.")
    if not given:
        host = Host(cache_folder(), version)
        host.set_up()
        return host.python, host.tree
    path = Path(given).expanduser().resolve()
    if not (path / "comfyui_version.py").is_file():
        raise SetupError(f"{path} is not a ComfyUI folder.", "Name the folder that holds ComfyUI's main.py.")
    return Path(sys.executable), path


def require_packages(command):
    """Raise SetupError if this Python, which is to run the user's own ComfyUI, lacks what `command` imports."""
    if command == "env":
        return
    if missing := missing_packages(OF_COMFYUI):
        raise SetupError(
            f"{sys.executable} lacks {', '.join(missing)}, so it is not the Python that runs ComfyUI.",
            "Run dev.py with that ComfyUI's Python, or without COMFYUI_PATH and --comfyui: it then sets up its own.",
        )
    if missing := missing_packages(FEW_TOOLS[command] if command in FEW_TOOLS else developer_tools()):
        install = f"{sys.executable} -m pip install {' '.join(missing)}"
        raise SetupError(f"{sys.executable} lacks {', '.join(missing)}, which `{command}` needs.", install)


def choose_tool(command, version, arguments):
    """(tool, its arguments, release of ComfyUI): a release named for `test` means its core suite, `all` every one's."""
    if version is None or command != "test":
        return command, arguments, version
    return ("releases", arguments, None) if version == "all" else ("test", ["--core", *arguments], version)


def run(python, comfyui, tool, arguments, **variables):
    """Run tools/<tool>.py in the host's Python, in place of this process where the system can do that."""
    line = [str(python), str(ROOT / "tools" / f"{tool}.py"), *arguments]
    inherited = os.environ if str(python) == sys.executable else clean_environment()
    environment = {**inherited, "COMFYUI_PATH": str(comfyui), "POSTDIFF_CACHE": str(cache_folder()), **variables}
    if os.name != "nt":
        sys.stdout.flush()
        os.execve(line[0], line, environment)
    with subprocess.Popen(line, env=environment) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                pass  # the child got it too and decides


def main(arguments):
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=__doc__)
    parser.add_argument("--comfyui")
    parser.add_argument("--host")
    parser.add_argument("command", nargs="?")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(__doc__.strip())
        return 0
    options, rest = parser.parse_known_args(arguments)
    if options.command not in COMMANDS:
        say(f"Unknown command {options.command!r}. Choose one of: {', '.join(COMMANDS)} (see `python dev.py --help`).")
        return 2
    if rest and options.command in WITHOUT_ARGUMENTS:
        say(f"`{options.command}` takes no arguments; given: {' '.join(rest)} (see `python dev.py --help`).")
        return 2
    try:
        tool, rest, version = choose_tool(options.command, options.host, rest)
        python, comfyui = choose_host(options.comfyui, version)
        if str(python) == sys.executable:
            require_packages(options.command)
        variables = {}
        if tool == "package":
            tools = ReleaseTools(cache_folder(), python)
            tools.set_up()
            variables["RELEASE_TOOLS"] = str(tools.python)
        return run(python, comfyui, tool, rest, **variables)
    except SetupError as error:
        say(f"{error}\nRemedy: {error.remedy}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. Run the same command again to go on from the last finished step.")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
