"""What a benchmark leaves behind: a JSON file, whole or not at all, and a table on the screen."""

import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..cache_core import CacheError

Row = dict[str, Any]
Columns = Sequence[tuple[str, Callable[[Row], str]]]


def environment(weights: Sequence[Path]) -> Row:
    """Versions, the device, the threads, and which weights it ran with."""
    cuda = torch.cuda.is_available()
    return {
        "encore": version(),
        "comfyui": import_module("comfyui_version").__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "gpu" if cuda else "cpu": torch.cuda.get_device_name() if cuda else processor(),
        "threads": torch.get_num_threads(),
        "weights_sha256": {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in weights},
    }


def version() -> str:
    """Encore's own; Python 3.10 has no parser of TOML."""
    lines = (Path(__file__).parents[1] / "pyproject.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version = "))


def processor() -> str:
    """The processor's own name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON beside `file` and put it in its place when it is complete."""
    text = json.dumps(finite(content), indent=1, allow_nan=False) + "\n"
    handle, passing = tempfile.mkstemp(dir=file.resolve().parent, prefix=f".{file.name}-", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(passing).chmod(0o644)
        Path(passing).replace(file)
    finally:
        Path(passing).unlink(missing_ok=True)


def join(rows: Sequence[Row], file: Path) -> tuple[list[Row], str]:
    """`rows` and after them those of an earlier run's `file` that they lack, and the command that measured these.

    CacheError unless both are of the same uncached samplings: model, prompts, sampler and steps.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        theirs, command = [row | {} for row in content["rows"]], str(content["command"])
        mine = {_samplings(row): row["prompts"] for row in rows if row["method"] == "uncached"}
        same = {_samplings(row): row["prompts"] for row in theirs if row["method"] == "uncached"}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{file} cannot be joined: {error!r}. Name a file that `./encore bench ... --json` wrote.") from error
    if not same or any(mine.get(one) != prompts for one, prompts in same.items()):
        raise CacheError(f"{file} is of {same}, and this run of {mine}. Join runs of the same model, prompts, sampler and steps.")
    known = {_measured(row) for row in rows}
    return [*rows, *(row for row in theirs if _measured(row) not in known)], command


def _samplings(row: Row) -> str:
    return f"{row['model']}, {row['steps']} steps, {row['setting']}"


def _measured(row: Row) -> tuple[str, str, str]:
    return row["model"], row["method"], row["setting"]


def finite(value: Any) -> Any:
    """`value` with None for every number that JSON has no word for."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(columns: Columns, rows: Sequence[Row]) -> str:
    """Rows as lines of text, the fastest first; a row's notes stand in place of what it lacks."""
    ordered = sorted(rows, key=lambda row: (row["model"], -(row.get("speedup") or 0.0)))
    cells = [[title for title, _ in columns], *([_cell(row, of) for _, of in columns] for row in ordered)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines + [f"{row['model']}, {row['method']}: {note}" for row in ordered for note in row["notes"]])


def _cell(row: Row, of: Callable[[Row], str]) -> str:
    """One cell; empty where the row does not have the number."""
    try:
        return of(row)
    except (KeyError, TypeError):
        return ""
