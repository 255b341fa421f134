"""Every published method on what the demo models really show: decisions and forecasts equal plain loops written from the papers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from oracles import loops
from oracles.by_hand import Anchor
from oracles.trajectory import load, record, sample
from pack.cache_core import Case, Recipe, Run, Site, Target
from pack.cache_core import published as p
from pack.cache_core.predictors import Chebyshev
from pack.cache_core.tables import (
    FLUX_CHANGE,
    FLUX_GOLDEN,
    FLUX_LEMICA,
    FLUX_MAGNITUDE,
    SCM_CODE,
    WAN_1B_CHANGE,
    WAN_1B_CHANGE_RETAINED,
    WAN_1B_MAGNITUDE,
    WAN_1B_MAGNITUDE_UNCOND,
    WAN_GOLDEN,
    WAN_LEMICA,
)
from pack.nodes.adapters import host, reports

STEPS = {"flux": 20, "wan": 16}
THRESHOLDS = [0.004 * 1.25**k for k in range(36)]  # the loop itself picks the one at which it reuses about half
NEVER = 10**9
PROBE, PICTURE = 1, 3  # places in what a stream shows


@dataclass(frozen=True)
class Method:
    """A recipe for a threshold, and the plain loops it must equal: when it reuses, and what it answers then."""

    recipe: Callable[[float], Recipe]
    decide: Callable[..., tuple[list[bool], list]]  # of the trajectory, what its streams showed, and the threshold
    forecast: Callable[[list[Anchor], Anchor], torch.Tensor]
    free: bool = True  # whether there is a threshold


def _teacache(table, fitted=True):
    f = np.poly1d(table.coefficients)

    def decide(seen, steps, threshold):
        rescaled = f if fitted else lambda change: abs(f(change))
        return loops.summed_change(steps, threshold, PROBE, rescaled, table.first, table.last)

    return Method(lambda threshold: p.teacache(threshold, table, fitted), decide, loops.hold)


def _magcache(*curves):
    def decide(seen, steps, threshold):
        return loops.magnitude(len(steps), curves, threshold, 5, int(0.1 * len(steps) + 0.5))

    return Method(lambda threshold: p.magcache(threshold, curves=curves), decide, loops.hold)


def _masked(recipe, masks, forecast):
    return Method(lambda _: recipe, lambda seen, steps, _: loops.paced(seen.sigmas, masks, 2.0), forecast, free=False)


def _every(recipe, every, warmup, forecast):
    return Method(lambda _: recipe, lambda seen, steps, _: loops.interval(len(steps), every, warmup), forecast, free=False)


def _first_block_cache(start, end, longest):
    def decide(seen, steps, threshold):
        assert end == 1.0
        return loops.change_since_computed(steps, threshold, max(math.ceil(start * len(steps)), 1), longest if longest >= 0 else NEVER)

    return Method(lambda threshold: p.first_block_cache(threshold, start, end, longest), decide, loops.hold)


def _easycache(seen, steps, threshold):
    return loops.output_rate(steps, threshold, math.ceil(0.15 * len(steps)), math.ceil(0.95 * len(steps)))


def _dicache(seen, steps, threshold):
    """run_flux_dicache.py computes while cnt <= int(0.2 steps), and the last; run_wan_dicache.py while cnt < int(0.2 (2 steps))."""
    total = len(steps)
    if seen.family == "flux":
        return loops.summed_change(steps, threshold, PICTURE, float, int(0.2 * total) + 1, 1)
    first = next(n for n in range(total) if 2 * n >= int(0.2 * 2 * total))
    return loops.summed_change(steps, threshold, PICTURE, float, first, 0)


def _embedded(seen, steps, threshold):
    return loops.embedded_pair(steps, seen.sigmas, threshold, 2)


def _examined(seen, steps, threshold):
    return loops.examined(steps, seen.sigmas, threshold, 2.0, 1)


COMMON = {
    "embedded pair": Method(p.embedded, _embedded, loops.line),
    "closed loop": Method(p.examined, _examined, loops.line),
    "FORA": _every(p.fora(3, 2), 3, 2, loops.hold),
    "First-Block Cache": _first_block_cache(0.0, 1.0, -1),
    "First-Block Cache, two in a row from a third on": _first_block_cache(0.3, 1.0, 2),
    "DBCache": Method(
        lambda threshold: p.dbcache(threshold, 2, 1, 4, 3),
        lambda seen, steps, threshold: loops.change_since_computed(steps, threshold, 4, 3),
        loops.hold,
    ),
    "EasyCache": Method(p.easycache, _easycache, loops.hold),
    "TaylorSeer": _every(p.taylorseer(4), 4, 3, loops.taylor(2)),
    "TaylorSeer of order 1": _every(p.taylorseer(3, 1, 2), 3, 2, loops.taylor(1)),
    "HiCache": _every(p.hicache(4), 4, 3, loops.hermite(2, 0.5)),
    "FreqCa": _every(p.freqca(4), 4, 3, loops.two_bands(0.1, 2, 0.71)),
    "Spectrum": Method(
        lambda _: p.spectrum(), lambda seen, steps, _: loops.growing(len(steps), 2, 0.75, 5, 3), loops.ridge(4, 0.1, 0.5), free=False
    ),
    "Spectrum, more of the curve": Method(
        lambda _: p.spectrum(3.0, 1.0, 3, 1, Chebyshev(2, 1.0, 0.7)),
        lambda seen, steps, _: loops.growing(len(steps), 3, 1.0, 3, 1),
        loops.ridge(2, 1.0, 0.7),
        free=False,
    ),
    "DBCache by a mask": Method(
        lambda _: p.dbcache_masked(front=2),
        lambda seen, steps, _: loops.stretched(seen.sigmas, SCM_CODE[0], round(len(steps) * SCM_CODE[0].share)),
        loops.hold,
        free=False,
    ),
}
OWN = {
    "flux": {
        "Encore": _masked(p.encore(2.0), FLUX_GOLDEN, loops.line),
        "DiCache": Method(p.dicache, _dicache, loops.two_anchors(1.0, 1.5)),
        "TeaCache, not fitted on it": _teacache(FLUX_CHANGE, fitted=False),
        "Golden Path": _masked(p.golden(2.0), FLUX_GOLDEN, loops.hold),
        "TeaCache": _teacache(FLUX_CHANGE),
        "MagCache": _magcache(FLUX_MAGNITUDE),
        "LeMiCa": _masked(p.lemica(2.0), FLUX_LEMICA, loops.hold),
    },
    "wan": {
        "Encore": _masked(p.encore(2.0, "wan"), WAN_GOLDEN, loops.line),
        "Encore by conditions": _masked(p.encore(2.0, "wan", Site.COND), WAN_GOLDEN, loops.line),
        "DiCache": Method(partial(p.dicache, family="wan"), _dicache, loops.two_anchors(1.0, 2.0)),
        "TeaCache, not fitted on it": _teacache(WAN_1B_CHANGE_RETAINED, fitted=False),
        "Golden Path": _masked(p.golden(2.0, WAN_GOLDEN, 1), WAN_GOLDEN, loops.line),
        "TeaCache": _teacache(WAN_1B_CHANGE_RETAINED),
        "TeaCache without ret_steps": _teacache(WAN_1B_CHANGE),
        "TeaCache without ret_steps, not fitted on it": _teacache(WAN_1B_CHANGE, fitted=False),
        "MagCache": _magcache(WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND),
        "LeMiCa": _masked(p.lemica(2.0, WAN_LEMICA), WAN_LEMICA, loops.hold),
    },
}
CASES = [(family, name) for family in ("flux", "wan") for name in {**OWN[family], **COMMON}]


@pytest.fixture(scope="module")
def models():
    return {family: load(family) for family in ("flux", "wan")}


@pytest.fixture(scope="module")
def trajectories(models):
    return {family: record(models[family], family, STEPS[family]) for family in models}


def decided(method, seen):
    """The method at the threshold where its loop reuses about half, and what its loop does there."""
    recipe = method.recipe(0.1)
    steps = seen.at(recipe)
    decide = partial(method.decide, seen, steps)
    if method.free:
        threshold = min(THRESHOLDS, key=lambda threshold: abs(sum(decide(threshold)[0]) - len(steps) / 2))
        recipe = method.recipe(threshold)
        reused, scores = decide(threshold)
    else:
        reused, scores = decide(0.0)
    return recipe, steps, reused, scores


def play(recipe, seen, steps):
    """What our Run does with the same: its ledger, and its answers to each branch where it reuses.

    What it is shown is written into afterwards, as the host's blocks do.
    """
    run, answers = Run(recipe, seen.schedule), []
    for sigma, state, shown in zip(seen.sigmas, seen.seen, steps, strict=True):
        given = [[None if part is None else part.clone() for part in parts] for parts in shown]
        cases = [Case(k, x, probe, picture=picture) for k, (x, probe, _, picture) in enumerate(given)]
        run.begin(sigma, state.latent)
        if run.decide(cases):
            answers.append([run.reuse(case) for case in cases])
        else:
            answers.append(None)
            for case, (_, _, y, _) in zip(cases, given, strict=True):
                run.record(case, y)
        run.end()
        for part in (part for parts in given for part in parts if part is not None):
            part.zero_()
    run.ledger.settle()
    return run.ledger, answers


def by_hand(recipe, seen, steps, reused, forecast):
    """The answers of a plain loop: the forecast from the evaluations computed so far, of what the recipe keeps."""
    kept, answers, total = [[] for _ in steps[0]], [], len(steps)
    residual = recipe.target is Target.RESIDUAL
    for n, (state, shown) in enumerate(zip(seen.seen, steps, strict=True)):
        probes = [(x - state.tokens[k][0])[:, state.text :] if recipe.head else None for k, (x, *_) in enumerate(shown)]
        now = [Anchor(n, seen.sigmas[n], total, probe) for probe in probes]
        if reused[n]:
            answers.append([forecast(kept[k], now[k]) + residual * shown[k][0] for k in range(len(shown))])
            continue
        answers.append(None)
        for k, (x, _, y, _) in enumerate(shown):
            kept[k].append(replace(now[k], feature=y - x if residual else y))
    return answers


@pytest.mark.parametrize(("family", "name"), CASES, ids=lambda value: value)
def test_a_method_decides_and_forecasts_as_its_paper_says(trajectories, family, name):
    method, seen = {**OWN[family], **COMMON}[name], trajectories[family]
    recipe, steps, reused, scores = decided(method, seen)
    ledger, answers = play(recipe, seen, steps)
    assert loops.letters(not entry.computed for entry in ledger.entries) == loops.letters(reused)
    assert min(reused.count(True), reused.count(False)) >= 4, "both must happen, or nothing is proved"
    for entry, values in zip(ledger.entries, scores, strict=True):
        if values is None or not entry.computed:
            assert entry.score == (None if values is None else pytest.approx(values[0], rel=1e-3, abs=1e-6)), entry
        else:
            assert any(entry.score == pytest.approx(value, rel=1e-3, abs=1e-6) for value in values), entry
    for found, expected in zip(answers, by_hand(recipe, seen, steps, reused, method.forecast), strict=True):
        assert (found is None) == (expected is None)
        for ours, plain in zip(found or (), expected or (), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_the_exam_in_the_ledger_is_the_error_of_the_forecast_that_was_not_needed(trajectories, family):
    seen, recipe = trajectories[family], p.masked(frozenset({0, 1, 4, 5, 9, 12}), STEPS[family])
    steps = seen.at(recipe)
    ledger, _ = play(recipe, seen, steps)
    anchors = []
    for n, (entry, shown) in enumerate(zip(ledger.entries, steps, strict=True)):
        if entry.computed:
            y, now = shown[0][2], Anchor(n, seen.sigmas[n], len(steps), None)
            if anchors:
                assert entry.error == pytest.approx(((loops.line(anchors, now) - y).norm() / y.norm()).item(), rel=1e-4)
            anchors.append(replace(now, feature=y))
        else:
            assert entry.error is None
    assert len(anchors) == 6


@pytest.fixture(scope="module")
def short(models):
    return {family: record(models[family], family, 6) for family in models}


SHOWN = ["First-Block Cache", "DBCache", "EasyCache", "DiCache", "TeaCache, not fitted on it"]


@pytest.mark.parametrize(
    ("family", "name"), [*((f, name) for f in ("flux", "wan") for name in SHOWN), ("wan", "TeaCache without ret_steps, not fitted on it")]
)
def test_inside_the_host_a_policy_is_shown_what_the_network_really_has(models, short, family, name):
    """At threshold 0 all is computed, as in the recording, and the ledger has what each evaluation was measured to be."""
    method, seen = {**OWN[family], **COMMON}[name], short[family]
    recipe = method.recipe(0.0)
    _, scores = method.decide(seen, seen.at(recipe), 0.0)
    ledger = reports.find(sample(host.attach(models[family], recipe), family, 6))[0]
    assert ledger.computed == 6
    for entry, values in zip(ledger.entries, scores, strict=True):
        assert (entry.score is None) == (values is None)
        assert values is None or any(entry.score == pytest.approx(value, rel=1e-3) for value in values)
    assert sum(entry.score is not None for entry in ledger.entries) >= 4
