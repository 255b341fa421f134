"""Runs a benchmark by name, on each demo model that was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..demo.agreement import DEFAULTS
from . import ablations, blockcache, code, frontier, methods, overhead, plot, probe, skip, twins
from .contest import make_course, weights
from .output import Columns, Row, environment, join, table, write
from .progress import Bar

BENCHES: dict[str, tuple[Callable[..., list[Row]], Columns]] = {  # of course, setting, rounds, bar and, for some, `only`
    "methods": (methods.run, methods.COLUMNS),
    "frontier": (frontier.run, frontier.COLUMNS),
    "ablations": (ablations.run, ablations.COLUMNS),
    "probe": (probe.run, probe.COLUMNS),
    "blockcache": (blockcache.run, blockcache.COLUMNS),
    "skip": (skip.run, skip.COLUMNS),
    "overhead": (overhead.run, overhead.COLUMNS),
}
ALONE: dict[str, tuple[Callable[[int, int, Bar], tuple[list[Row], list[Path]]], Columns]] = {
    "code": (code.run, code.COLUMNS),  # on models of its own: of batches for quality and rounds of timing
}

MAKERS = dict.fromkeys(twins.TWINS, twins.make) | dict.fromkeys(skip.BRANCHED, skip.make)  # of courses that are not a demo model alone


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a benchmark is run: `prompts`, `batch` of them at once for quality, `rounds` of timing, `only` these methods."""

    prompts: int = 16
    steps: int = 50
    rounds: int = 5
    batch: int = 16
    only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Files:
    """What a run leaves, its rows and a picture of them, and the rows of earlier runs that join it."""

    rows: Path | None = None
    picture: Path | None = None
    earlier: tuple[Path, ...] = ()


def size(quick: bool, **chosen: Any) -> Size:
    """The default size, or the quick one, but for what was chosen."""
    return replace(Size(prompts=4, steps=20, rounds=1) if quick else Size(), **chosen)


def bench(name: str, families: Sequence[str], size: Size, command: str, files: Files, sampler: str | None = None) -> int:
    """Run benchmark `name`, with another `sampler` if given, print its table and write its `files`; 0."""
    rows: list[Row] = []
    with Bar(name) as bar:
        if name in ALONE:
            alone, columns = ALONE[name]
            rows, weighed = alone(size.prompts, size.rounds, bar)
        else:
            act, columns = BENCHES[name]
            if size.only:
                act = partial(act, only=size.only)
            weighed = []
            for family in families:
                course = MAKERS.get(family, make_course)(family, size.prompts, size.batch)
                weighed.append(weights(course.family))
                setting = replace(DEFAULTS.get(course.family, twins.SETTING), steps=size.steps)
                setting = replace(setting, sampler=sampler or setting.sampler)
                rows += act(course, setting, size.rounds, bar)
    content: Row = {"command": command, "joined": [], "shrunk": size != Size(), "environment": environment(weighed), "rows": rows}
    _leave(content, columns, files)
    return 0


def _leave(content: Row, columns: Columns, files: Files) -> None:
    """Write and print `content` with the rows that join it; what was measured is kept and shown if one of their files does not fit."""
    if files.rows is not None:
        write(files.rows, content)
    try:
        for other in files.earlier:
            content["rows"], told = join(content["rows"], other)
            content["joined"].append(told)
    finally:
        print(table(columns, content["rows"]))
    if files.rows is not None and files.earlier:
        write(files.rows, content)
    if files.picture is not None:
        plot.frontier(content["rows"], files.picture)
