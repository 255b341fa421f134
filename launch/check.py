"""./encore test: the linter, the formatter, the types, then the tests on every ComfyUI."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .comfyui import version_of
from .home import PACK, link
from .paths import HOSTS, ROOT
from .process import running
from .setup import Host

LINT = {"ruff check": ["check", "."], "ruff format": ["format", "--check", "."]}
TYPED = ("cache_core", "nodes", "launch", "bench")
NOTHING_COLLECTED = 5  # pytest's exit code when a selection leaves no test


def check(hosts: Sequence[Host], pytest_arguments: Sequence[str]) -> int:
    """Run every check, the whole suite on the newest host last, so that its summary ends the output; 1 if any failed."""
    tools = hosts[-1].python.parent
    failed = [name for name, arguments in LINT.items() if _call(name, [tools / "ruff", *arguments], ROOT)]
    failed += ["mypy"] if _check_types(tools) else []
    for host in hosts:
        older, name = host is not hosts[-1], f"pytest on ComfyUI {version_of(host.comfyui)}"
        arguments = [*(["-m", "host"] if older else []), *pytest_arguments]
        code = _call(name, [tools / "pytest", *arguments], ROOT, {"COMFYUI_PATH": str(host.comfyui)})
        if code and not (older and code == NOTHING_COLLECTED):
            failed.append(name)
    if failed:
        print(f"encore: failed: {', '.join(failed)}; the output above says where", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _check_types(tools: Path) -> int:
    """Run mypy on the pack as the package `encore`: its relative imports need a parent, and the folder's own name may be no identifier."""
    parent = HOSTS / "types"
    parent.mkdir(parents=True, exist_ok=True)
    place = parent / PACK
    if place.is_symlink() and place.resolve() != ROOT:
        place.unlink()  # the folder has been moved
    if not place.exists():
        link(place, ROOT)
    packages = [part for name in TYPED for part in ("-p", f"{PACK}.{name}")]
    return _call("mypy", [tools / "mypy", "--config-file", ROOT / "pyproject.toml", *packages], parent)


def _call(name: str, command: Sequence[str | Path], folder: Path, variables: dict[str, str] | None = None) -> int:
    """Run a tool with its output on the screen; its exit code."""
    print(f"== {name}", flush=True)
    with running(command, None, folder, {**os.environ, **(variables or {})}) as process:
        return process.wait()
