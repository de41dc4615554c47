"""What the pack's source must not do: evaluate text, run programs, open connections or routes, write where it likes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

FORBIDDEN_MODULES = {
    *("pickle", "dill", "marshal", "shelve", "code", "codeop", "runpy", "imp", "ctypes", "cffi"),
    *("subprocess", "pty", "webbrowser"),
    *("socket", "ssl", "http", "urllib", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "websockets"),
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
FORBIDDEN_ATTRIBUTES = {
    *("os.system", "os.popen", "os.startfile", "os.fork", "os.posix_spawn", "os.execv", "os.spawnv"),
    *("torch.load", "torch.save", "torch.jit", "torch.hub", "torch.package", "numpy.load", "np.load", "yaml.load"),
}
ROUTES = {"routes", "add_routes", "add_route", "add_static", "router"}
WRITES = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "touch", "unlink", "rmdir", "rmtree", "symlink_to"),
    *("hardlink_to", "copyfile", "copytree", "save_file", "savefig", "tofile", "mkstemp", "mkdtemp"),
}
UNKNOWN_FOLDERS = {"__file__", "cwd", "getcwd", "home", "expanduser", "environ", "gettempdir"}


def violations(source: str, *, may_write: bool = False) -> list[str]:
    """Each as "line: what", in the order of the source. A module that may write must not pick the folder itself."""
    return [f"{node.lineno}: {what}" for node, what in _found(ast.parse(source), may_write)]


def _found(tree: ast.AST, may_write: bool) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, f"import {name.name}") for name in node.names if _is_forbidden(name.name))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and _is_forbidden(node.module or ""):
            yield node, f"from {node.module} import"
        elif isinstance(node, ast.Name):
            if node.id in FORBIDDEN_CALLS | (UNKNOWN_FOLDERS if may_write else WRITES):
                yield node, node.id
        elif isinstance(node, ast.Attribute):
            yield from _found_in_attribute(node, may_write)
        elif isinstance(node, ast.Call) and not may_write and _opens_for_writing(node):
            yield node, "open for writing"


def _found_in_attribute(node: ast.Attribute, may_write: bool) -> Iterator[tuple[ast.AST, str]]:
    name = ast.unparse(node)
    if name in FORBIDDEN_ATTRIBUTES or node.attr in ROUTES | (UNKNOWN_FOLDERS if may_write else WRITES):
        yield node, name


def _is_forbidden(module: str) -> bool:
    return module.partition(".")[0] in FORBIDDEN_MODULES


def _opens_for_writing(call: ast.Call) -> bool:
    """`open(path, "w")`, `path.open("w")`; for the builtin, a mode that is not written out counts as one."""
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        return any(not isinstance(mode, ast.Constant) or _is_writing_mode(mode) for mode in given[1:])
    return isinstance(call.func, ast.Attribute) and call.func.attr == "open" and any(map(_is_writing_mode, given))


def _is_writing_mode(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and bool(re.fullmatch(r"[rbt]*[wax+][rwaxbt+]*", str(value.value)))


def shipped_modules(root: Path) -> list[Path]:
    """The modules that ComfyUI loads from the pack: not its tests, tools, benchmarks and training recipe."""
    folders = ("nodes", "postdiff_core", "embedded_model")
    found = [root / "__init__.py", *(module for folder in folders for module in sorted((root / folder).rglob("*.py")))]
    return [module for module in found if "training" not in module.relative_to(root).parts]
