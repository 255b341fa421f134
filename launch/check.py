"""./encore test: the linter, the formatter, the types, then the tests on every ComfyUI."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .comfyui import version_of
from .paths import ROOT
from .process import running
from .setup import Host

NOTHING_COLLECTED = 5  # pytest's exit code when a selection leaves no test


def check(hosts: Sequence[Host], pytest_arguments: Sequence[str]) -> int:
    """Run every check, the whole suite on the newest host last, so that its summary ends the output; 1 if any failed."""
    tools = hosts[-1].python.parent
    failed = [
        " ".join(command)
        for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
        if _call([tools / command[0], *command[1:]])
    ]
    for host in hosts:
        older = host is not hosts[-1]
        version = version_of(host.comfyui)
        arguments = [*(["-m", "host"] if older else []), *pytest_arguments]
        code = _call([tools / "pytest", *arguments], {"COMFYUI_PATH": str(host.comfyui)}, f"pytest on ComfyUI {version}")
        if code and not (older and code == NOTHING_COLLECTED):
            failed.append(f"pytest on ComfyUI {version}")
    if failed:
        print(f"encore: failed: {', '.join(failed)}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def _call(command: Sequence[str | Path], variables: dict[str, str] | None = None, title: str = "") -> int:
    """Run a tool in the repository with its output on the screen; its exit code."""
    name = title or " ".join([Path(command[0]).name, *map(str, command[1:])])
    print(f"== {name}", flush=True)
    with running(command, None, ROOT, {**os.environ, **(variables or {})}) as process:
        return process.wait()
