"""Guards, budgets, and policies at the edges of what they are shown."""

import math
from dataclasses import replace

import pytest
import torch
from pack.cache_core import Observation, Probe, Schedule, Step
from pack.cache_core.policies import (
    AccumulatedError,
    AtMost,
    Budget,
    Change,
    Drift,
    Embedded,
    Interval,
    Magnitude,
    Mask,
    Never,
    OutputRate,
    Tail,
    Warmup,
    Within,
)
from pack.cache_core.predictors import Lagrange
from pack.cache_core.tables import FLUX_MAGNITUDE
from policy_runs import flow, play, walk

SHOWN = [Change(0.3), Drift(0.9), Drift(0.9, Probe.FIRST_BLOCK, of="input"), OutputRate(0.5)]
TIGHT = [Change(0.05), Drift(0.1), Drift(0.1, Probe.FIRST_BLOCK, of="input"), OutputRate(0.1)]
EVERY = [
    Never(),
    Interval(3),
    Mask(frozenset({0, 5}), 12),
    Change(0.1),
    Drift(0.3),
    OutputRate(0.2),
    Magnitude(0.3, (FLUX_MAGNITUDE,)),
    Embedded(0.1),
    AccumulatedError(0.1),
    Change(math.inf),
    Tail(Warmup(AtMost(Change(0.1), 2), 2), 2),
    Within(Change(math.inf), 0.2, 0.8),
]


def shown(change):
    """A smooth run of 12 steps where all that is shown at step 6 is `change`d."""
    steps = walk("smooth", 12)
    x, _, y = steps[6]
    steps = [(x, x, y) for x, _, y in steps]
    steps[6] = (change(x), change(x), y)
    return steps


class TestEdges:
    @pytest.mark.parametrize("policy", SHOWN, ids=str)
    def test_a_probe_that_is_not_a_number_computes_says_so_and_is_got_over(self, policy):
        trace, verdicts = play(policy, shown(lambda x: x * math.nan))
        assert trace[6] == "C"
        assert "nan" in verdicts[6].reason
        assert verdicts[6].score is None
        assert "r" in trace[:6]
        assert "r" in trace[8:]

    @pytest.mark.parametrize("policy", SHOWN, ids=str)
    def test_a_probe_of_another_shape_computes_and_says_so(self, policy):
        state = policy.init()
        for n, rows in enumerate((1, 1, 1, 2)):
            x = torch.full((rows, 3), 1.0 + n)
            seen = Observation(Step(flow(12), flow(12).sigmas[n], n), x, 0, n, x)
            verdict, state = policy.propose(state, seen)
            state = policy.settle(state, seen, 2 * x)
        assert not verdict.reuse
        assert "shape (2, 3) after (1, 3)" in verdict.reason

    @pytest.mark.parametrize("policy", SHOWN, ids=str)
    def test_a_probe_that_is_missing_computes_and_says_so(self, policy):
        seen = Observation(Step(flow(12), 0.5, 6), None, 0, 3)
        assert policy.propose(policy.init(), seen)[0].reason == "nothing was shown to compare"

    @pytest.mark.parametrize("policy", SHOWN, ids=str)
    def test_zeros_have_no_relative_change_and_compute(self, policy):
        zero = torch.zeros(1, 4)
        assert play(policy, [(zero, zero, zero)] * 8)[0] == "C" * 8

    @pytest.mark.parametrize("policy", TIGHT, ids=str)
    def test_what_was_shown_may_be_written_into_afterwards(self, policy):
        steps, buffer, trace = walk("random", 12), torch.zeros(1, 6, 4, dtype=torch.float64), ""
        state, age, computed = policy.init(), 0, 0
        for n, (x, _, y) in enumerate(steps):
            out = y.clone()
            seen = Observation(Step(flow(12), flow(12).sigmas[n], n), buffer.copy_(x), age, computed, buffer)
            verdict, state = policy.propose(state, seen)
            state = policy.settle(state, seen, None if verdict.reuse else out)
            age, computed = (age + 1, computed) if verdict.reuse else (0, computed + 1)
            trace += "r" if verdict.reuse else "C"
            out.zero_()
        assert trace == play(policy, [(x, x, y) for x, _, y in steps])[0]
        assert trace.count("C") > 2
        assert "r" in trace

    @pytest.mark.parametrize("policy", [*SHOWN, Embedded(0.05), AccumulatedError(0.05)], ids=str)
    def test_the_order_of_the_batch_rows_does_not_matter(self, policy):
        steps = [(x, x, y) for x, _, y in walk("random", 16, rows=3)]
        assert play(policy, steps)[0] == play(policy, [tuple(v.flip(0) for v in step) for step in steps])[0]

    def test_reasons_name_the_number_and_the_threshold(self):
        for policy in (*SHOWN, Embedded(0.3), AccumulatedError(0.3), Magnitude(0.3, (FLUX_MAGNITUDE,))):
            verdict = play(policy, shown(lambda x: x))[1][5]
            limit = getattr(policy, "threshold", None) or policy.tolerance
            assert verdict.reason.endswith(f"{verdict.score:.3g} {'<' if verdict.reuse else '>='} {limit:.3g}")

    def test_a_threshold_of_zero_computes_everything(self):
        steps = [(x, x, y) for x, _, y in walk("smooth", 12)]
        zero = [Change(0.0), Drift(0.0), OutputRate(0.0), Embedded(0.0), AccumulatedError(0.0), Magnitude(0.0, (FLUX_MAGNITUDE,))]
        assert {play(policy, steps)[0] for policy in zero} == {"C" * 12}

    def test_a_change_as_large_as_the_threshold_computes(self):
        steps = [(torch.full((1, 2), size),) * 3 for size in (1.0, 1.25, 1.5625)]
        assert play(Change(0.25), steps)[0] == play(Drift(0.25), steps)[0] == "CCC"
        assert play(Change(0.251), steps)[0] == play(Drift(0.251), steps)[0] == "CrC"


class TestOutputRate:
    def test_an_output_of_zero_has_no_relative_change(self):
        steps = [(x, x, 0 * y) for x, _, y in walk("smooth", 6)]
        trace, verdicts = play(OutputRate(9.0), steps)
        assert trace == "C" * 6
        assert verdicts[-1].reason.endswith("output of size 0")

    def test_an_input_that_does_not_move_says_nothing_of_the_output(self):
        x = torch.ones(1, 4)
        steps = [(x, x, torch.full((1, 4), 1.0 + n)) for n in range(12)]
        trace, verdicts = play(OutputRate(0.5), steps)
        assert trace == "C" * 12
        assert "no rate known" in verdicts[-1].reason

    def test_an_input_that_stops_moving_computes(self):
        steps = [(x, x, y) for x, _, y in walk("smooth", 12)]
        trace, verdicts = play(OutputRate(9.0), steps[:6] + [steps[5]] * 3)
        assert trace == "CCrrrrCCC"
        assert "input moved by 0" in verdicts[6].reason

    def test_another_shape_of_output_is_no_rate(self):
        policy, reasons = OutputRate(9.0), []
        state = policy.init()
        for n, width in enumerate((4, 2, 2, 2)):
            seen = Observation(Step(flow(4), flow(4).sigmas[n], n), torch.full((1, 4), 1.0 + n), 0, n)
            verdict, state = policy.propose(state, seen)
            state = policy.settle(state, seen, torch.full((1, width), 2.0 + n))
            reasons.append(verdict.reason)
        assert reasons[1:] == ["no rate known yet", "no rate known yet", "output change 0.25 < 9"]


class TestOurs:
    def test_embedded_compares_each_noise_level_once(self):
        steps = [(x, x, y) for x, _, y in walk("random", 6)]
        sigmas = [1.0, 1.0, 0.8, 0.8, 0.6, 1.0]
        verdicts = play(Embedded(0.0), steps, flow(6), sigmas=sigmas)[1]
        assert verdicts[1].reason == verdicts[2].reason == "1 of 2 outputs computed"
        assert verdicts[3].score == pytest.approx(0.0, abs=1e-6)
        assert all(verdict.score is None or math.isfinite(verdict.score) for verdict in verdicts)

    def test_embedded_of_order_two_is_blind_to_a_line(self):
        line = [(torch.ones(1, 2),) * 2 + (torch.tensor([[1.0, 2.0]]) * (2 - sigma),) for sigma in flow(12).sigmas[:-1]]
        assert play(Embedded(1e-4, 2), line, predictor=Lagrange(1))[0] == "CCC" + "r" * 9
        assert play(Embedded(1e-4, 1), line)[0] == "C" * 12

    def test_an_exam_that_is_not_a_number_is_no_exam(self):
        steps = [(x, x, y) for x, _, y in walk("smooth", 8)]
        steps[1] = (*steps[1][:2], steps[1][2] * math.nan)
        verdicts = play(AccumulatedError(9.0), steps)[1]
        assert verdicts[2].reason == "no forecast examined yet"
        assert not verdicts[2].reuse

    def test_an_exam_without_a_distance_keeps_the_last_rate(self):
        steps = [(x, x, y) for x, _, y in walk("smooth", 4)]
        verdicts = play(Warmup(AccumulatedError(9.0), 3), steps, flow(4), sigmas=[1.0, 0.8, 0.8, 0.6])[1]
        assert verdicts[3].reuse

    def test_the_tolerance_bounds_the_error_that_was_expected(self):
        for tolerance in (0.01, 0.05, 0.2):
            trace, verdicts = play(AccumulatedError(tolerance), walk("smooth", 40))
            assert all(verdict.score < tolerance for letter, verdict in zip(trace, verdicts, strict=True) if letter == "r")


class TestMagnitude:
    def test_of_several_curves_the_worst_decides(self):
        calm, wild = (replace(FLUX_MAGNITUDE, ratios=(ratio,) * 28) for ratio in (1.0, 1.5))
        for curves in ((calm, wild), (wild, calm)):
            verdicts = play(Magnitude(0.4, curves), walk("smooth", 28))[1]
            assert [verdict.score for verdict in verdicts[1:]] == [0.5] * 27
        assert play(Magnitude(0.4, (calm,)), walk("smooth", 28))[0] == "C" + "r" * 10 + "C" + "r" * 16

    def test_a_part_of_a_schedule_reads_its_own_part_of_the_curve(self):
        whole = [FLUX_MAGNITUDE.sigma(step) for step in range(29)]
        steps = walk("smooth", 14)
        for sigmas, first in ((whole[14:], 14), (whole[:15], 0)):
            verdicts = play(Magnitude(9.0, (FLUX_MAGNITUDE,)), steps, Schedule(tuple(sigmas)))[1]
            assert verdicts[1].score == pytest.approx(abs(1 - FLUX_MAGNITUDE.ratios[first + 1]), abs=1e-9)

    def test_a_second_evaluation_in_a_step_counts_again_and_steps_passed_over_count_too(self):
        gamma = FLUX_MAGNITUDE.ratios
        grid = Schedule(tuple(FLUX_MAGNITUDE.sigma(step) for step in range(29)))
        at = grid.sigmas
        verdicts = play(Magnitude(9.0, (FLUX_MAGNITUDE,)), walk("smooth", 4), grid, sigmas=[at[4], at[5], at[5], at[8]])[1]
        sizes = [gamma[5], gamma[5] ** 2, gamma[5] ** 2 * gamma[6] * gamma[7] * gamma[8]]
        assert [v.score for v in verdicts[1:]] == pytest.approx([sum(abs(1 - s) for s in sizes[: n + 1]) for n in range(3)])

    def test_a_run_that_goes_back_in_time_computes(self):
        at = flow(8).sigmas
        verdicts = play(Magnitude(9.0, (FLUX_MAGNITUDE,)), walk("smooth", 4), flow(8), sigmas=[at[4], at[5], at[2], at[3]])[1]
        assert [verdict.reuse for verdict in verdicts] == [False, True, False, True]
        assert verdicts[2].reason == "step 2 has no step before it"


class TestGuards:
    def test_tail_computes_the_last_steps_and_warm_up_the_first(self):
        steps = walk("smooth", 12)
        assert play(Tail(Interval(9), 3), steps)[0] == "CrrrrrrrrCCC"
        assert play(Tail(Interval(9), 0), steps)[0] == "CrrrrrrrrCrr"
        assert play(Tail(Warmup(Interval(9), 2), 1), steps)[0] == "CCrrrrrrrrCC"

    def test_within_takes_fractions_noise_levels_or_both(self):
        steps, schedule = walk("smooth", 10), flow(10, 1.0)
        assert play(Within(Interval(99), 0.2, 0.8), steps, schedule)[0] == "CCrrrrrrCC"
        assert play(Within(Interval(99), low=0.35, high=0.85), steps, schedule)[0] == "CCrrrrrCCC"
        assert play(Within(Interval(99), low=schedule.sigmas[6], high=schedule.sigmas[2]), steps, schedule)[0] == "CCrrrrrCCC"
        assert play(Within(Interval(99), 0.5, 1.0, low=0.15), steps, schedule)[0] == "CCCCCrrrrC"

    @pytest.mark.parametrize("policy", EVERY, ids=str)
    @pytest.mark.parametrize("count", [1, 2, 5, 11, 12, 40])
    @pytest.mark.parametrize("kind", ["smooth", "random"])
    def test_a_budget_is_spent_exactly_whatever_it_is_laid_around(self, policy, count, kind):
        trace, verdicts = play(Budget(policy, count), [(x, x, y) for x, _, y in walk(kind, 12)])
        assert trace.count("C") == min(count, 12)
        assert trace[0] == "C"
        assert all(verdict.reason for verdict in verdicts)

    def test_a_budget_says_when_it_forces_and_asks_the_policy_in_between(self):
        steps = walk("smooth", 12)
        assert play(Budget(Interval(4), 5), steps)[0] == "CrrrCrrrCrCC"
        assert play(Budget(Never(), 3), steps)[0] == "CCCrrrrrrrrr"
        verdicts = play(Budget(Interval(4), 5), steps)[1]
        assert verdicts[10].reason == "budget: 2 to compute in the last 2 steps"
        assert play(Budget(Never(), 3), steps)[1][3].reason == "budget: 3 of 3 computed"

    @pytest.mark.parametrize("policy", EVERY, ids=str)
    def test_a_budget_is_kept_by_samplers_that_evaluate_twice_a_step(self, policy):
        schedule = flow(6)
        sigmas = [sigma for pair in zip(schedule.sigmas[:-1], schedule.sigmas[1:], strict=True) for sigma in pair][:-1]
        steps = [(x, x, y) for x, _, y in walk("random", len(sigmas))]
        assert play(Budget(policy, 4), steps, schedule, sigmas=sigmas)[0].count("C") == 4
