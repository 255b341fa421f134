"""`./encore bench overhead`: what Encore itself costs in a computed and in a skipped evaluation, and what it keeps."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

from torch import nn

from ..cache_core import Ledger, Observation, Recipe, Site, Verdict, published
from ..cache_core.memory import kept_bytes
from ..cache_core.policies import Guard
from ..demo.agreement import Setting
from ..demo.codec import BLOCK
from ..demo.world import FRAMES, SIDE
from ..nodes.adapters.extent import extent_of
from ..nodes.adapters.families import blocks_of
from ..nodes.adapters.host import attach
from ..nodes.adapters.options import KEY, RIVALS
from .bootstrap import interval, medians
from .contest import Course, Entrant
from .methods import entries
from .output import Columns, Row
from .progress import Bar
from .rows import blank

TOLD = 3  # text tokens of a prompt: two things and their background
WARM = 4  # evaluations at the start that do not count: multiply-accumulates are counted in the first, anchors are still few
DECLINED = Verdict(False, "computed to be measured")


@dataclass(frozen=True, slots=True)
class Declined(Guard):
    """Asks the inner policy at every evaluation and follows it at none: all are computed."""

    def propose(self, state: Any, seen: Observation) -> tuple[Verdict, Any]:
        return DECLINED, self.inner.propose(state, seen)[1]


@dataclass(frozen=True, slots=True)
class Eager(Guard):
    """Asks the inner policy too, and reuses all evaluations but the first WARM."""

    def propose(self, state: Any, seen: Observation) -> tuple[Verdict, Any]:
        verdict, state = self.inner.propose(state, seen)
        return Verdict(seen.step.evaluation >= WARM, "reused to be measured", verdict.score), state


@dataclass(frozen=True, slots=True)
class Times:
    """Of one evaluation: seconds that passed, those that the sampling thread was at work, and those of them outside of `parts`."""

    passed: float
    host: float
    own: float


@dataclass(slots=True)
class Clock:
    """Times the evaluations of samplings and, beside each, the same evaluation of the bare model if `paired`.

    The two take turns in going first. What the host spends within `parts` of the network, which compute the same in both, is
    told apart: from one call to the next it differs by more than all that Encore does.
    """

    paired: bool
    parts: Sequence[nn.Module] = ()
    attached: list[Times] = field(default_factory=list)
    bare: list[Times] = field(default_factory=list)
    _within: float = 0.0

    def on(self, model: Any) -> Any:
        """A clone of `model` with this clock outside of everything that is attached to it."""
        from comfy.patcher_extension import WrapperExecutor, WrappersMP

        def wrapper(executor: Any, x: Any, timestep: Any, model_options: Any, seed: Any) -> Any:
            first = len(self.attached) % 2 == 0
            options = without_caches(model_options)

            def alone() -> Any:  # as the host does without wrappers
                return WrapperExecutor.new_class_executor(executor.original, executor.class_obj, []).execute(x, timestep, options, seed)

            def bare() -> None:
                self.bare.append(self._time(alone)[1])

            if self.paired and first:
                bare()
            result, times = self._time(lambda: executor(x, timestep, model_options, seed))
            self.attached.append(times)
            if self.paired and not first:
                bare()
            return result

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "encore bench", wrapper)
        return model

    @contextmanager
    def watching(self) -> Iterator[None]:
        """With hooks on the parts."""
        hooks = [part.register_forward_pre_hook(self._enter) for part in self.parts]
        hooks += [part.register_forward_hook(self._leave) for part in self.parts]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _time(self, call: Callable[[], Any]) -> tuple[Any, Times]:
        self._within, passed, host = 0.0, time.perf_counter(), time.thread_time()
        result = call()
        host = time.thread_time() - host
        return result, Times(time.perf_counter() - passed, host, host - self._within)

    def _enter(self, *_: Any) -> None:
        self._within -= time.thread_time()

    def _leave(self, *_: Any) -> None:
        self._within += time.thread_time()


def parts_for(network: nn.Module, site: Site) -> list[nn.Module]:
    """What computes the same with and without Encore: the whole network if the site is outside of it, its blocks, or their layers."""
    if not site.inside:
        return [network]
    blocks = blocks_of(network)
    assert blocks is not None, "the demo models' blocks are known"
    found = [blocks.block(network, key) for key in blocks.keys(network)]
    return [part for block in found for part in block.modules() if isinstance(part, nn.Linear)] if site is Site.BRANCH else found


def without_caches(model_options: Any) -> Any:
    """Model options under which the host evaluates the bare model in the middle of a cached sampling."""
    passed, caches = model_options["transformer_options"], (KEY, *RIVALS)
    wrappers = {kind: {key: made for key, made in keyed.items() if key not in caches} for kind, keyed in passed["wrappers"].items()}
    rest = {key: value for key, value in passed.items() if key not in caches}
    return model_options | {"transformer_options": rest | {"wrappers": wrappers}}


@dataclass(slots=True)
class Timing:
    """An entrant, and the clock of its samplings."""

    entrant: Entrant
    clock: Clock
    ledgers: list[Ledger] = field(default_factory=list)
    put: Callable[[Any], Any] = lambda model: model  # what a bare model gets in place of a recipe

    def time(self, course: Course, number: int, bar: Bar) -> None:
        """Sample once more."""
        model, recipe = self.clock.on(course.model), self.entrant.recipe
        with self.clock.watching():
            course.one(self.entrant, attach(model, recipe, self.ledgers.append) if recipe else self.put(model), number, bar)

    def late(self, times: list[Times], computed: bool = True) -> list[Times]:
        """Those of all evaluations that were `computed`, or were not, but the first ones of each sampling."""
        steps, entries = self.entrant.setting.steps, [entry for ledger in self.ledgers for entry in ledger.entries]
        done = [entry.computed for entry in entries] or [True] * len(times)
        return [one for number, (one, was) in enumerate(zip(times, done, strict=True)) if number % steps >= WARM and was is computed]


def run(course: Course, setting: Setting, rounds: int, bar: Bar) -> list[Row]:
    """One row for each site and probe, by the first method that has them, and for TRACE, ComfyUI's own caches and the bare model.

    All take turns in every round. TRACE samples as it does: its computed evaluations repay the drift of the skipped ones.
    """
    entrants, bare = representatives(course, setting), Entrant("uncached", setting, "the bare model against itself")
    trace = Entrant("trace", setting, "guided, as it samples", published.trace(2.0))
    watched = [bare, trace, *(_with_policy(entrant, Declined) for entrant in entrants)]
    network = course.model.model.diffusion_model
    computed = [Timing(entrant, Clock(True, parts_for(network, site_of(entrant)))) for entrant in watched]
    computed[1:1] = rivals(network, setting)
    skipped = [Timing(_with_policy(entrant, Eager), Clock(False)) for entrant in entrants]
    alone: list[Timing | None] = [None] * (len(computed) - len(skipped))
    bar.expect(course, [setting] * len(computed + skipped), rounds)
    for number in range(rounds):
        for timing in computed + skipped:
            timing.time(course, number, bar)
    return [row(course, timing, eager, rounds) for timing, eager in zip(computed, [*alone, *skipped], strict=True)]


def rivals(network: nn.Module, setting: Setting) -> list[Timing]:
    """ComfyUI's own caches, with a threshold that nothing is below: one stands within the network, one around it."""
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    found = []
    for node, site in ((EasyCacheNode, Site.STACK), (LazyCacheNode, Site.GUIDED)):
        entrant = Entrant(f"comfyui_{node.__name__.removesuffix('Node').lower()}", setting, "ComfyUI's own node")
        found.append(Timing(entrant, Clock(True, parts_for(network, site)), put=partial(_with_node, node)))
    return found


def _with_node(node: Any, model: Any) -> Any:
    return node.execute(model, 0.0, 0.0, 1.0, False).result[0]  # threshold, start, end, verbose


def representatives(course: Course, setting: Setting) -> list[Entrant]:
    """A method for each site, and for each probe of a site."""
    found: dict[Any, Entrant] = {}
    conds = Entrant("encore", setting, "speed 2.0, site cond", published.encore(2.0, course.family, Site.COND))
    for entrant in [conds, *entries(course, setting)[0]]:
        recipe = entrant.recipe
        assert recipe is not None
        found.setdefault((recipe.site.value, recipe.policy.probe.value), entrant)
    return [found[key] for key in sorted(found)]


def site_of(entrant: Entrant) -> Site:
    """Where an entrant caches; a bare model is looked at as if it were outside of the network."""
    return entrant.recipe.site if entrant.recipe else Site.GUIDED


def row(course: Course, timing: Timing, skipped: Timing | None, rounds: int) -> Row:
    """Times in microseconds. The overhead is host time outside of the network's own parts: the median difference of the pairs.

    What a skipped evaluation takes is of the sampling `skipped`, or else of the same.
    """
    bare, attached = timing.late(timing.clock.bare), timing.late(timing.clock.attached)
    apart = [1e6 * (ours.own - theirs.own) for ours, theirs in zip(attached, bare, strict=True)]
    evaluation = 1e6 * median(one.host if course.on_cpu else one.passed for one in bare)
    found = blank(course, timing.entrant.method, timing.entrant.words, [])
    found |= {
        "prompts": min(len(course.scenes), rounds),
        "steps": timing.entrant.setting.steps,
        "rounds": rounds,
        "evaluation_us": evaluation,
        "overhead_us": median(apart),
        "overhead_us_ci": interval(medians(apart)),
        "overhead_percent": 100 * median(apart) / evaluation,
    }
    recipe, skipped = timing.entrant.recipe, skipped or timing
    if recipe is None:
        return found
    ledger, reused = timing.ledgers[-1], skipped.late(skipped.clock.attached, False)
    return found | {
        "site": recipe.site.value,
        "probe": recipe.policy.probe.value,
        "computed": ledger.computed,
        "skipped_us": 1e6 * median(one.passed for one in reused) if reused else None,
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


COLUMNS: Columns = (
    ("model", lambda row: row["model"]),
    ("method", lambda row: row["method"]),
    ("site", lambda row: row["setting"]),
    ("evaluation", lambda row: f"{row['evaluation_us'] / 1000:.2f} ms"),
    ("overhead", lambda row: f"{row['overhead_us']:.0f} us"),
    ("95 %", lambda row: "{:.0f} to {:.0f}".format(*row["overhead_us_ci"])),
    ("share", lambda row: f"{row['overhead_percent']:.2f} %"),
    ("skipped", lambda row: "" if row["skipped_us"] is None else f"{row['skipped_us'] / 1000:.2f} ms"),
    ("kept", lambda row: f"{row['kept_bytes']} B"),
    ("predicted", lambda row: f"{row['kept_bytes_predicted']} B"),
)
