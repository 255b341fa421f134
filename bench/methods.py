"""`./encore bench methods`: every published method at its recommended setting, next to fewer steps at the same cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from ..cache_core import CacheError, Recipe
from ..cache_core import published as p
from ..cache_core.tables import (
    FLUX_CHANGE,
    FLUX_GOLDEN,
    FLUX_LEMICA,
    FLUX_MAGNITUDE,
    SCM_CODE,
    WAN_1B_CHANGE_RETAINED,
    WAN_1B_MAGNITUDE,
    WAN_1B_MAGNITUDE_UNCOND,
    WAN_GOLDEN,
    WAN_LEMICA,
)
from ..demo.agreement import Setting
from .contest import Course, Entrant, Result
from .output import Columns
from .progress import Bar
from .rows import Row, blank, make_table

RIVALS = {"fewer_steps_euler": "euler", "fewer_steps_2nd": "dpmpp_2m"}  # the 2nd is DPM-Solver++(2M), arXiv:2211.01095
FLUX, WAN = (FLUX_MAGNITUDE,), (WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND)
NO_CFG = "its paper forecasts the negative prompt, and this model has its guidance distilled: it is sampled without one"
Choice = Mapping[str, Any] | str


@dataclass(frozen=True, slots=True)
class Method:
    """A function of published.py and its arguments for each family, or why its paper excludes that family."""

    make: Callable[..., Recipe]
    flux: Choice
    wan: Choice

    def of(self, family: str) -> Choice:
        return self.flux if family == "flux" else self.wan


# Settings are those of the authors' code or README for FLUX.1-dev and Wan 2.1 1.3B. DBCache's 8 of 57 blocks are 1 of 6 here.
METHODS = (
    Method(p.encore, {"speed": 2.0}, {"speed": 2.0, "family": "wan"}),
    Method(p.trace, {"speed": 2.0}, {"speed": 2.0}),
    Method(p.embedded, {}, {}),
    Method(p.examined, {}, {}),
    Method(p.fora, {"every": 3}, {"every": 3}),
    Method(p.teacache, {"threshold": 0.4, "table": FLUX_CHANGE}, {"threshold": 0.1, "table": WAN_1B_CHANGE_RETAINED}),
    Method(
        p.magcache, {"threshold": 0.24, "longest": 5, "curves": FLUX}, {"threshold": 0.12, "longest": 2, "retained": 0.2, "curves": WAN}
    ),
    Method(p.easycache, {"threshold": 0.2}, {"threshold": 0.05}),
    Method(p.first_block_cache, {"threshold": 0.12}, {"threshold": 0.12}),
    Method(p.dbcache, {"threshold": 0.08, "front": 1}, {"threshold": 0.08, "front": 1}),
    Method(p.dbcache_masked, {"mask": SCM_CODE[0]}, {"mask": SCM_CODE[0]}),
    Method(p.dicache, {"family": "flux"}, {"family": "wan"}),
    Method(p.taylorseer, {"every": 6, "order": 2}, {"every": 6, "order": 2}),
    Method(p.hicache, {"every": 6, "order": 2}, {"every": 6, "order": 2}),
    Method(p.freqca, {"every": 5}, {"every": 5}),
    Method(p.spectrum, {"growth": 0.75}, {"growth": 0.75}),
    Method(p.lemica, {"pace": 2.0, "masks": FLUX_LEMICA}, {"pace": 2.0, "masks": WAN_LEMICA}),
    Method(p.golden, {"pace": 2.0, "masks": FLUX_GOLDEN}, {"pace": 2.0, "masks": WAN_GOLDEN}),
    Method(p.fora_branches, {"every": 3}, {"every": 3}),
    Method(p.taylorseer_branches, {"every": 6, "order": 2}, {"every": 6, "order": 2}),
    Method(p.hicache_branches, {"every": 6, "order": 2}, {"every": 6, "order": 2}),
    Method(p.pab, {"attention": 2, "cross": 6}, {"attention": 2, "cross": 6}),
    Method(p.delta_dit, {"total": 6}, {"total": 6}),
    Method(p.cfg_cache, NO_CFG, {"every": 5}),
)


def words(arguments: Mapping[str, Any]) -> str:
    """Arguments for people: `threshold 0.4, table TeaCache FLUX`; of a set of tables, the model that they are of."""

    def word(value: Any) -> str:
        return f"of {value[0].model}" if isinstance(value, tuple) else str(getattr(value, "name", value))

    return ", ".join(f"{name} {word(value)}" for name, value in arguments.items()) or "defaults"


def run(course: Course, setting: Setting, rounds: int, bar: Bar, only: Sequence[str] = ()) -> list[Row]:
    """The rows of one model: uncached, every method or `only` those, and both plain rivals at each cost that a method has."""
    entrants, excluded = entries(course, setting, only)
    bar.expect(course, [setting] * (1 + len(entrants)))
    uncached, frames = reference(course, setting, bar)
    results = [course.judge(entrant, frames, bar) for entrant in entrants]
    costs = {id(result): cost(result, uncached) for result in results}
    plain = fewer_steps(course, setting, sorted(set(costs.values())), frames, bar)
    everyone = [uncached, *results, *(result for pair in plain.values() for result in pair.values())]
    bar.expect(course, [result.entrant.setting for result in everyone], rounds)
    course.race(everyone, rounds, bar)
    table = make_table(course, uncached)
    rows = [table.row(uncached, {})]
    for result in results:
        rivals = {name.removeprefix("fewer_steps_"): rival for name, rival in plain[costs[id(result)]].items()}
        rows.append(table.row(result, rivals))
    rows += [table.row(result, {}) for pair in plain.values() for result in pair.values()]
    return rows + excluded


def entries(course: Course, setting: Setting, only: Sequence[str] = ()) -> tuple[list[Entrant], list[Row]]:
    """The methods that run on this family, all or `only` those, and the rows of those that do not, with the reason.

    Raises CacheError for a name that no method has.
    """
    names = [method.make.__name__ for method in METHODS]
    if unknown := sorted(set(only) - set(names)):
        raise CacheError(f"There is no method {', '.join(unknown)}. Choose from {', '.join(names)}.")
    entrants: list[Entrant] = []
    excluded: list[Row] = []
    for method in (method for method in METHODS if not only or method.make.__name__ in only):
        choice, name = method.of(course.family), method.make.__name__
        if isinstance(choice, str):
            excluded.append(blank(course, name, "", [choice]))
        else:
            entrants.append(Entrant(name, setting, words(choice), method.make(**choice)))
    return entrants, excluded


def reference(course: Course, setting: Setting, bar: Bar) -> tuple[Result, Tensor]:
    """The uncached result, scored against itself, and its frames [N, F, 64, 64, 3]."""
    told = {name: value for name, value in asdict(setting).items() if name != "steps"}
    entrant = Entrant("uncached", setting, words(told))
    frames, result = course.frames(entrant, bar)
    course.rate(result, frames, frames)
    return result, frames


def cost(result: Result, uncached: Result) -> int:
    """Steps of the bare model that take about the MACs of `result`, or its computed evaluations where MACs cannot be counted."""
    steps = uncached.entrant.setting.steps
    if result.macs is None or uncached.macs is None:
        return round(result.mean(lambda ledger: ledger.computed))
    return max(1, round(steps * result.macs / uncached.macs))


def fewer_steps(
    course: Course, setting: Setting, costs: Sequence[int], frames: Tensor, bar: Bar, names: Sequence[str] = tuple(RIVALS)
) -> dict[int, dict[str, Result]]:
    """The plain rivals, or those `names` of them, at each of `costs`, in steps, by name."""
    settings = {steps: {name: replace(setting, steps=steps, sampler=RIVALS[name]) for name in names} for steps in costs}
    bar.expect(course, [each for pair in settings.values() for each in pair.values()])
    return {
        steps: {name: course.judge(Entrant(name, each, f"{steps} steps, {each.sampler}"), frames, bar) for name, each in pair.items()}
        for steps, pair in settings.items()
    }


COLUMNS: Columns = (
    ("model", lambda row: row["model"]),
    ("method", lambda row: row["method"]),
    ("setting", lambda row: row["setting"][:44]),
    ("computed", lambda row: f"{row['computed']:g} of {row['steps']}"),
    ("MACs", lambda row: f"{row['macs_reduction']:.2f}x fewer"),
    ("speed-up", lambda row: f"{row['speedup']:.2f}x"),
    ("PSNR dB", lambda row: f"{row['psnr_db']:.1f}"),
    ("95 %", lambda row: "{:.1f} to {:.1f}".format(*row["psnr_db_ci"])),
    ("over Euler", lambda row: f"{row['psnr_db_over_euler']:+.1f} dB"),
    ("SSIM", lambda row: f"{row['ssim']:.4f}"),
    ("agreement", lambda row: f"{100 * row['agreement']:.1f} %"),
)
