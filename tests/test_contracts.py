"""What every policy, guard, predictor and recipe must satisfy. A new one is covered by adding it to its list."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from pack.cache_core import Case, History, Observation, Place, Placement, Probe, RecipeError, Run, Schedule, Site, Step
from pack.cache_core.blockcache import Alignment
from pack.cache_core.policies import (
    AccumulatedError,
    AtMost,
    Budget,
    Carried,
    Change,
    Drift,
    Embedded,
    Growing,
    Interval,
    Magnitude,
    Mask,
    Never,
    OutputRate,
    Paced,
    PerBranch,
    PerPlace,
    Retained,
    Steps,
    Tail,
    Warmup,
    Within,
)
from pack.cache_core.predictors import (
    AdamsBashforth,
    Aligned,
    Axis,
    Chebyshev,
    Corrected,
    Damped,
    FrequencySplit,
    GuidanceBands,
    Hermite,
    Hold,
    Lagrange,
    Learning,
    Scaled,
    Taylor,
    TwoAnchor,
)
from pack.cache_core.published import encore, masked, measure
from pack.cache_core.tables import FLUX_CHANGE, FLUX_GOLDEN, FLUX_MAGNITUDE, WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND
from recipes import published_methods


class Pupil:
    """Makes a held residual half as large again."""

    def align(self, block, sigma, x, held):
        return 1.5 * held


TWELVE = Schedule(tuple(1 - n / 12 for n in range(13)))
POLICIES = [
    Never(),
    Interval(3),
    Mask(frozenset({0, 3, 4, 9}), 12),
    Paced(2.0, FLUX_GOLDEN),
    Carried(FLUX_GOLDEN[1]),
    Growing(2.0, 0.75, 2),
    Steps(Interval(3), 2, -2),
    AtMost(Interval(9), 2),
    Warmup(Interval(3), 4),
    Within(Interval(3), 0.2, 0.9),
    Within(AtMost(Warmup(Interval(5), 2), 3), 0.1, 0.9),
    Within(Interval(3), low=0.3, high=0.8),
    Tail(Interval(3), 2),
    Retained(Interval(3), 0.2),
    Budget(Interval(2), 4),
    Change(0.1),
    Drift(0.4, polynomial=FLUX_CHANGE.coefficients),
    Drift(0.2, Probe.FIRST_BLOCK, of="input"),
    OutputRate(0.2),
    Magnitude(0.24, (FLUX_MAGNITUDE,)),
    Magnitude(0.12, (WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND)),
    Embedded(0.1),
    Embedded(0.1, 2),
    AccumulatedError(0.1, 2.0),
    PerPlace((Change(0.1), Interval(2))),
    PerBranch(Interval(2), Interval(6), Within(Interval(3), 0.2, 0.8)),
]
PREDICTORS = [Hold(), Lagrange(0), Lagrange(1), Lagrange(2), Lagrange(3), Taylor(1), Taylor(2, Axis.STEP), Hermite(2)]
PREDICTORS += [Chebyshev(relative=True), AdamsBashforth(2), AdamsBashforth(3), Scaled(FLUX_MAGNITUDE, scale=False), TwoAnchor()]
PREDICTORS += [FrequencySplit(Hold(), Hermite(2, 0.71)), Damped(Lagrange(1), 0.5), Corrected(Lagrange(1), 0.5)]
AT_BLOCKS = [Aligned(Alignment("x", "fitted", ((0, 0.9), (0, 0.4)), torch.ones(2, 2, 3))), Learning(Pupil())]
RESIZING = [Chebyshev(), Scaled(FLUX_MAGNITUDE)]  # a constant is made smaller by publication, or larger on purpose
RECIPES = [
    encore(),
    encore(1.0),
    encore(4.0, "wan", Site.COND),
    measure(),
    masked(frozenset({0, 5}), 12),
    *published_methods(),
]
WRONG = [
    lambda: Interval(0),
    lambda: Mask(frozenset({1, 2}), 12),
    lambda: Mask(frozenset({0, 12}), 12),
    lambda: Paced(0.5, FLUX_GOLDEN),
    lambda: Paced(float("nan"), FLUX_GOLDEN),
    lambda: Paced(2.0, ()),
    lambda: AtMost(Interval(2), -1),
    lambda: Warmup(Interval(2), -1),
    lambda: Steps(Interval(2), -1),
    lambda: Steps(Interval(2), 5, 4),
    lambda: Growing(0.5, 0.0),
    lambda: Growing(2.0, float("nan")),
    lambda: Within(Interval(2), 0.8, 0.2),
    lambda: Within(Interval(2), low=0.8, high=0.2),
    lambda: Tail(Interval(2), -1),
    lambda: Retained(Interval(2), 1.5),
    lambda: Budget(Interval(2), 0),
    lambda: Change(-0.1),
    lambda: Change(float("nan")),
    lambda: Drift(-0.1),
    lambda: Drift(0.1, polynomial=()),
    lambda: Drift(0.1, polynomial=(1.0, float("nan"))),
    lambda: OutputRate(float("nan")),
    lambda: Magnitude(0.1, ()),
    lambda: Magnitude(-1.0, (FLUX_MAGNITUDE,)),
    lambda: replace(FLUX_MAGNITUDE, ratios=(1.0, 0.0)),
    lambda: Embedded(-0.1),
    lambda: Embedded(0.1, 0),
    lambda: AccumulatedError(0.1, 0.0),
    lambda: AccumulatedError(float("nan")),
    lambda: Lagrange(9),
    lambda: Taylor(-1),
    lambda: Hermite(2, 0.0),
    lambda: AdamsBashforth(0),
    lambda: Chebyshev(ridge=0.0),
    lambda: Chebyshev(axis=Axis.STEP),
    lambda: TwoAnchor((1.5, 1.0)),
    lambda: GuidanceBands(low=0.0),
    lambda: PerPlace(()),
    lambda: PerPlace((Change(0.1), OutputRate(0.1))),
    lambda: FrequencySplit(Hold(), Hold(), 1.5),
    lambda: Damped(Lagrange(1), 1.5),
    lambda: Damped(TwoAnchor(), 0.5),
    lambda: Corrected(Hold(), float("nan")),
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


def filled(predictor, features, times=(1.0, 0.9, 0.7, 0.65)):
    """A history of `features`, and a look at the run after them, with a probe for whoever wants one."""
    history = History(predictor.depth, Placement())
    for time, feature in zip(times, features, strict=False):
        history.push(time, feature, torch.randn(2, 7))
    return history, Observation(Step(TWELVE, 0.5, 6), torch.randn(2, 7), 0, len(features))


@pytest.mark.parametrize("predictor", PREDICTORS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_constant_is_kept(predictor, count):
    constant = torch.randn(2, 5, 3)
    history, seen = filled(predictor, [constant] * count)
    torch.testing.assert_close(predictor.predict(history, seen, constant), constant)


@pytest.mark.parametrize("predictor", PREDICTORS + RESIZING, ids=str)
class TestPredictor:
    def test_settings_are_frozen(self, predictor):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(predictor, next((field.name for field in fields(predictor)), "depth"), None)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_shape_dtype_and_no_aliasing(self, predictor, dtype):
        features = [torch.randn(2, 5, 3, dtype=dtype) for _ in range(4)]
        history, seen = filled(predictor, features)
        given = [*features, seen.probe, *(probe for probe in history.probes if probe is not None), *history.features]
        kept = [tensor.clone() for tensor in given]
        out = predictor.predict(history, seen, features[0])
        assert (out.shape, out.dtype) == (features[0].shape, dtype)
        out.fill_(7.0)
        assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


@pytest.mark.parametrize("predictor", [*PREDICTORS, *RESIZING, *AT_BLOCKS], ids=lambda predictor: str(predictor)[:60])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_an_exam_is_what_was_computed_minus_the_forecast(predictor, dtype, close, count):
    features = [torch.randn(2, 5, 3, dtype=dtype) for _ in range(5)]
    history, seen = filled(predictor, features[:count])
    seen.place = Place(0)
    given = [*features, *history.features]
    kept = [tensor.clone() for tensor in given]
    found = predictor.miss(history, seen, features[0], features[-1])
    assert found.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    expected = features[-1].to(found.dtype) - predictor.predict(history, seen, features[0]).to(found.dtype)
    torch.testing.assert_close(found, expected, rtol=close, atol=close * float(expected.abs().max()))
    assert all(torch.equal(a, b) for a, b in zip(given, kept, strict=True))


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
    assert drive(Retained(Interval(99), 0.2)) == "CCrrrrrrrrrr", "12 x 0.2 = 2.4"
    assert drive(Retained(Interval(99), 0.21)) == "CCCrrrrrrrrr", "2.52"
    assert drive(Retained(Interval(99), 0.25, 1.0)) == "CCCCrrrrrrrr"
    assert drive(Mask(frozenset({0, 3, 4, 9}), 12)) == "CrrCCrrrrCrr"
    assert drive(Mask(frozenset({0, 3}), 11)) == "C" * 12, "a mask for another number of steps computes"
    assert drive(Steps(Interval(99), 2, 9)) == "CCrrrrrrrrCC"
    assert drive(Steps(Interval(99), 2, -3)) == "CCrrrrrrrrCC"
    assert drive(Paced(1.0, FLUX_GOLDEN)) == "C" * 12
    assert drive(Paced(2.0, FLUX_GOLDEN)).count("C") == 5
