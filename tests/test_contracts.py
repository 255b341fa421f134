"""What every policy, guard, predictor and recipe must satisfy. A new one is covered by adding it to its list."""

import math
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from pack.cache_core import Case, History, Observation, Placement, Probe, RecipeError, Run, Schedule, Site, Step
from pack.cache_core.policies import AtMost, Interval, Mask, Never, Paced, Warmup, Within
from pack.cache_core.predictors import Hold, Lagrange
from pack.cache_core.published import encore, fora, masked, measure
from pack.cache_core.tables import FLUX_GOLDEN

TWELVE = Schedule(tuple(1 - n / 12 for n in range(13)))
POLICIES = [
    Never(),
    Interval(3),
    Mask(frozenset({0, 3, 4, 9}), 12),
    Paced(2.0, FLUX_GOLDEN),
    AtMost(Interval(9), 2),
    Warmup(Interval(3), 4),
    Within(Interval(3), 0.2, 0.9),
    Within(AtMost(Warmup(Interval(5), 2), 3), 0.1, 0.9),
]
PREDICTORS = [Hold(), Lagrange(0), Lagrange(1), Lagrange(2), Lagrange(3)]
RECIPES = [encore(), encore(1.0), encore(4.0, "wan", Site.COND), measure(), fora(3, 2), masked(frozenset({0, 5}), 12)]
WRONG = [
    lambda: Interval(0),
    lambda: Mask(frozenset({1, 2}), 12),
    lambda: Mask(frozenset({0, 12}), 12),
    lambda: Paced(0.5, FLUX_GOLDEN),
    lambda: Paced(float("nan"), FLUX_GOLDEN),
    lambda: Paced(2.0, ()),
    lambda: AtMost(Interval(2), -1),
    lambda: Warmup(Interval(2), -1),
    lambda: Within(Interval(2), 0.8, 0.2),
    lambda: Lagrange(9),
]


def drive(recipe_or_policy, schedule=TWELVE, seed=0):
    """Run a policy by itself; returns a letter for each evaluation."""
    policy, trace = recipe_or_policy, ""
    torch.manual_seed(seed)
    state, age, computed, x = policy.init(), 0, 0, torch.randn(1, 8)
    for n, sigma in enumerate(schedule.sigmas[:-1]):
        x = x + 0.05 * torch.randn_like(x)
        seen = Observation(Step(schedule, sigma, n), x, age, computed)
        verdict, state = policy.propose(state, seen)
        reuse = verdict.reuse and computed > 0
        state = policy.settle(state, seen, None if reuse else 2 * x)
        age, computed = (age + 1, computed) if reuse else (0, computed + 1)
        trace += "r" if reuse else "C"
    return trace


@pytest.mark.parametrize("policy", POLICIES, ids=str)
class TestPolicy:
    def test_settings_are_frozen(self, policy):
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(policy, fields(policy)[0].name, None)

    def test_two_runs_are_the_same(self, policy):
        assert drive(policy) == drive(policy)

    def test_propose_is_pure(self, policy):
        probe = torch.randn(1, 8)
        seen = Observation(Step(TWELVE, 0.75, 3), probe, 0, 1)
        state = policy.settle(policy.init(), seen, probe)
        kept = probe.clone()
        first, _ = policy.propose(state, seen)
        second, _ = policy.propose(state, seen)
        assert first == second
        assert torch.equal(probe, kept)

    def test_every_verdict_says_why(self, policy):
        for sigma in TWELVE.sigmas[:-1]:
            seen = Observation(Step(TWELVE, sigma, 0), torch.randn(1, 8), 0, 0)
            assert policy.propose(policy.init(), seen)[0].reason

    def test_the_first_evaluation_is_computed_and_the_probe_is_named(self, policy):
        assert drive(policy)[0] == "C"
        assert isinstance(policy.probe, Probe)


@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
class TestPredictor:
    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_constant_is_kept(self, predictor, count):
        times = [1.0, 0.9, 0.7, 0.65][: min(count, predictor.depth)]
        assert math.isclose(sum(predictor.weights(times, 0.5)), 1.0, abs_tol=1e-9)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_shape_dtype_and_no_aliasing(self, predictor, dtype):
        history = History(predictor.depth, Placement())
        features = [torch.randn(2, 5, 3, dtype=dtype) for _ in range(4)]
        kept = [feature.clone() for feature in features]
        for time, feature in zip([1.0, 0.9, 0.7, 0.65], features, strict=True):
            history.push(time, feature)
        out = predictor.predict(history, Observation(Step(TWELVE, 0.5, 4), features[0], 0, 4), features[0])
        assert (out.shape, out.dtype) == (features[0].shape, dtype)
        out.fill_(7.0)
        assert all(torch.equal(a, b) for a, b in zip(features, kept, strict=True))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_recipe_runs_alone_and_its_ledger_adds_up(recipe):
    run = Run(recipe, TWELVE)
    for sigma in TWELVE.sigmas[:-1]:
        x = torch.full((2, 4), sigma)
        run.begin(sigma, x)
        case = Case("key", x, x)
        if run.decide([case]):
            assert run.reuse(case).shape == x.shape
        else:
            run.record(case, 3 * x)
        run.end()
    run.ledger.settle()
    assert run.ledger.evaluations == 12
    assert run.ledger.computed + run.ledger.reused == 12
    assert all(entry.reason for entry in run.ledger.entries)
    assert recipe.name


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_that_make_no_sense_are_refused_with_the_value_found(wrong):
    with pytest.raises(RecipeError, match=r"\d|nan|\("):
        wrong()


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("times", [[0.0, 1.0, 2.0, 3.0], [1.0, 0.9, 0.55, 0.5]])
def test_lagrange_is_exact_on_its_own_order(order, times):
    predictor = Lagrange(order)
    used = times[-predictor.depth :]

    def polynomial(t):
        return sum((k + 1) * t**k for k in range(order + 1))

    forecast = sum(w * polynomial(t) for w, t in zip(predictor.weights(used, 0.3), used, strict=True))
    assert forecast == pytest.approx(polynomial(0.3))


def test_decision_traces():
    assert drive(Interval(3)) == "CrrCrrCrrCrr"
    assert drive(AtMost(Interval(9), 2)) == "CrrCrrCrrCrr"
    assert drive(Warmup(Interval(3), 4)) == "CCCCrrCrrCrr"
    assert drive(Within(Interval(3), 0.5, 1.0)) == "CCCCCCrrCrrC"
    assert drive(Mask(frozenset({0, 3, 4, 9}), 12)) == "CrrCCrrrrCrr"
    assert drive(Mask(frozenset({0, 3}), 11)) == "C" * 12, "a mask for another number of steps computes"
    assert drive(Paced(1.0, FLUX_GOLDEN)) == "C" * 12
    assert drive(Paced(2.0, FLUX_GOLDEN)).count("C") == 5
