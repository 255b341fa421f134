"""`./encore bench overhead`: what Encore itself costs in a computed and in a skipped evaluation, and what it keeps."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from ..cache_core import Ledger, Observation, Recipe, Site, Verdict
from ..cache_core.memory import kept_bytes
from ..cache_core.policies import Guard
from ..cache_core.published import encore
from ..demo.agreement import Setting
from ..demo.codec import BLOCK
from ..demo.world import FRAMES, SIDE
from ..nodes.adapters.extent import extent_of
from ..nodes.adapters.host import attach
from .bootstrap import interval, medians
from .contest import Course, Entrant
from .methods import entries
from .output import Columns, Row
from .progress import Bar
from .rows import blank

TOLD = 3  # text tokens of a prompt: two things and their background
WARM = 4  # evaluations at the start that do not count: multiply-accumulates are counted in the first, anchors are still few


@dataclass(frozen=True, slots=True)
class Declined(Guard):
    """Asks the inner policy at every evaluation and follows it at none: all are computed."""

    def forbids(self, seen: Observation) -> str | None:
        return "computed to be measured"


@dataclass(frozen=True, slots=True)
class Eager(Guard):
    """Asks the inner policy too, and reuses all evaluations but the first WARM."""

    def propose(self, state: Any, seen: Observation) -> tuple[Verdict, Any]:
        verdict, state = self.inner.propose(state, seen)
        return Verdict(seen.step.evaluation >= WARM, "reused to be measured", verdict.score), state


@dataclass(slots=True)
class Clock:
    """Times of the evaluations of one sampling: seconds that passed, and seconds that the sampling thread was at work."""

    passed: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)

    def on(self, model: Any) -> Any:
        """A clone of `model` with this clock outside of everything that is attached to it later."""
        from comfy.patcher_extension import WrappersMP

        def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
            passed, host = time.perf_counter(), time.thread_time()
            result = executor(*args, **kwargs)
            self.host.append(time.thread_time() - host)
            self.passed.append(time.perf_counter() - passed)
            return result

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "encore bench", wrapper)
        return model


@dataclass(slots=True)
class Timing:
    """An entrant, a clock a round. The bare model takes part twice: the second time shows how far to believe the differences."""

    entrant: Entrant
    clocks: list[Clock] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)

    def time(self, course: Course, number: int, bar: Bar) -> None:
        """Sample once more."""
        self.clocks.append(Clock())
        model, recipe = self.clocks[-1].on(course.model), self.entrant.recipe
        course.one(self.entrant, attach(model, recipe, self.ledgers.append) if recipe else model, number, bar)

    def best(self, clock: Callable[[Clock], list[float]]) -> list[float]:
        """Microseconds of each evaluation after the first ones, the least of all rounds: what else runs here only adds to it."""
        return [1e6 * min(rounds) for rounds in zip(*map(clock, self.clocks), strict=True)][WARM:]


def run(course: Course, setting: Setting, rounds: int, bar: Bar) -> list[Row]:
    """One row for each site and probe, by the first method that has them, and one for the bare model against itself.

    All take turns in every round.
    """
    entrants, bare = representatives(course, setting), Entrant("uncached", setting, "the bare model against itself")
    computed = [Timing(bare), Timing(bare), *(Timing(_with_policy(entrant, Declined)) for entrant in entrants)]
    skipped = [Timing(_with_policy(entrant, Eager)) for entrant in entrants]
    bar.expect(course, [setting] * len(computed + skipped), rounds)
    for number in range(rounds):
        for timing in computed + skipped:
            timing.time(course, number, bar)
    first, *others = computed
    return [row(course, first, timing, eager) for timing, eager in zip(others, [None, *skipped], strict=True)]


def representatives(course: Course, setting: Setting) -> list[Entrant]:
    """A method for each site, and for each probe of a site."""
    found: dict[Any, Entrant] = {}
    conds = Entrant("encore", setting, "speed 2.0, site cond", encore(2.0, course.family, Site.COND))
    for entrant in [conds, *entries(course, setting)[0]]:
        recipe = entrant.recipe
        assert recipe is not None
        found.setdefault((recipe.site.value, recipe.policy.probe.value), entrant)
    return [found[key] for key in sorted(found)]


def row(course: Course, bare: Timing, timing: Timing, skipped: Timing | None) -> Row:
    """Times in microseconds. The overhead is host time, that of the sampling thread: the median difference over evaluations."""
    apart = [b - a for a, b in zip(bare.best(_host), timing.best(_host), strict=True)]
    evaluation = median(bare.best(_host if course.on_cpu else _passed))
    found = blank(course, timing.entrant.method, timing.entrant.words, [])
    found |= {
        "prompts": min(len(course.scenes), len(bare.clocks)),
        "steps": timing.entrant.setting.steps,
        "rounds": len(bare.clocks),
        "evaluation_us": evaluation,
        "overhead_us": median(apart),
        "overhead_us_ci": interval(medians(apart)),
        "overhead_percent": 100 * median(apart) / evaluation,
    }
    if skipped is None:
        return found
    ledger, recipe = timing.ledgers[-1], timing.entrant.recipe
    assert recipe is not None
    return found | {
        "site": recipe.site.value,
        "probe": recipe.policy.probe.value,
        "computed": ledger.computed,
        "skipped_us": median(skipped.best(_passed)),
        "kept_bytes": max(ledger.peak_bytes, skipped.ledgers[-1].peak_bytes),  # some policies keep more where they reuse
        "kept_bytes_predicted": predicted_bytes(course, recipe, 1 if timing.entrant.setting.cfg == 1.0 else 2),
    }


def predicted_bytes(course: Course, recipe: Recipe, conditions: int) -> int | None:
    """What `recipe` should keep for one prompt, by the formula that the nodes' help gives; None if its blocks cannot be counted."""
    side = SIDE // BLOCK
    latent = (1, 16, *([FRAMES] if course.family == "wan" else []), side, side)
    extent = extent_of(course.model, recipe, latent, TOLD, conditions)
    return None if extent is None else kept_bytes(recipe, extent)


def _with_policy(entrant: Entrant, guard: type[Guard]) -> Entrant:
    recipe = entrant.recipe
    assert recipe is not None
    words = f"{recipe.site.value}, probe {recipe.policy.probe.value}"
    return replace(entrant, words=words, recipe=replace(recipe, policy=guard(recipe.policy)))


def _host(clock: Clock) -> list[float]:
    return clock.host


def _passed(clock: Clock) -> list[float]:
    return clock.passed


COLUMNS: Columns = (
    ("model", lambda row: row["model"]),
    ("method", lambda row: row["method"]),
    ("site", lambda row: row["setting"]),
    ("evaluation", lambda row: f"{row['evaluation_us'] / 1000:.2f} ms"),
    ("overhead", lambda row: f"{row['overhead_us']:.0f} us"),
    ("95 %", lambda row: "{:.0f} to {:.0f}".format(*row["overhead_us_ci"])),
    ("share", lambda row: f"{row['overhead_percent']:.2f} %"),
    ("skipped", lambda row: f"{row['skipped_us'] / 1000:.2f} ms"),
    ("kept", lambda row: f"{row['kept_bytes']} B"),
    ("predicted", lambda row: f"{row['kept_bytes_predicted']} B"),
)
