"""Policies against plain loops written from the papers and their authors' code."""

import math

import pytest
from pack.cache_core import Probe
from pack.cache_core.masks import rescale
from pack.cache_core.policies import (
    AccumulatedError,
    AtMost,
    Carried,
    Change,
    Drift,
    Embedded,
    Growing,
    Magnitude,
    OutputRate,
    Tail,
    Warmup,
)
from pack.cache_core.predictors import Hold, Lagrange
from pack.cache_core.tables import FLUX_CHANGE, FLUX_LEMICA, FLUX_MAGNITUDE, WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND, WAN_I2V_LEMICA
from policy_runs import flow, play, walk


def mean(x):
    return x.abs().mean().item()


def letters(reused):
    return "".join("r" if reuse else "C" for reuse in reused)


def teacache(probes, threshold, coefficients, first, last):
    """teacache_flux.py and teacache_generate.py."""
    total, previous, reused = 0.0, None, []
    for n, probe in enumerate(probes):
        if n < first or n >= len(probes) - last:
            reuse, total = False, 0.0
        else:
            x = mean(probe - previous) / mean(previous)
            total += sum(c * x ** (len(coefficients) - 1 - k) for k, c in enumerate(coefficients))
            reuse = total < threshold
            total = total if reuse else 0.0
        previous = probe
        reused.append(reuse)
    return letters(reused)


def dbcache(probes, threshold, warmup, longest):
    """cache-dit: CachedContextManager.can_cache and similarity."""
    buffer, run, reused = None, 0, []
    for n, probe in enumerate(probes):
        reuse = n >= warmup and run < longest and mean(buffer - probe) / mean(buffer) < threshold
        run = run + 1 if reuse else 0
        buffer = buffer if reuse else probe
        reused.append(reuse)
    return letters(reused)


def spectrum(total, window, growth, warmup):
    """Spectrum: the decision in its authors' forward, a step at a time."""
    reused, trace = 0, []
    for step in range(total):
        actual = step < warmup or (reused + 1) % math.floor(window) == 0
        if actual and step >= warmup:
            window = round(window + growth, 3)
        reused = 0 if actual else reused + 1
        trace.append(not actual)
    return letters(trace)


def easycache(steps, threshold, first):
    """easycache_generate.py: decisions of the conditional branch."""
    k, error, previous, before, output, reused = None, 0.0, None, None, None, []
    for n, (_, x, y) in enumerate(steps):
        reuse = False
        if n < first:
            error = 0.0
        elif k is not None:
            error += k * (mean(x - previous) / mean(output))
            reuse = error < threshold
            error = error if reuse else 0.0
        previous = x
        if not reuse:
            if output is not None:
                k = mean(y - output) / mean(previous - before)
            before, output = previous, y
        reused.append(reuse)
    return letters(reused)


def magcache(ratios, steps, threshold, longest, first, always=()):
    """magcache_flux.py with nearest_interp, < for <=; several curves as several branches that skip together."""
    ratio, error, run, reused = [1.0] * len(ratios), [0.0] * len(ratios), 0, []
    for n in range(steps):
        reuse, at = False, round(n * (len(ratios[0]) - 1) / (steps - 1))
        if n >= first:
            run += 1
            for k, curve in enumerate(ratios):
                ratio[k] *= curve[at]
                error[k] += abs(1 - ratio[k])
            reuse = all(e < threshold for e in error) and run <= longest and at not in always
        if not reuse:
            ratio, error, run = [1.0] * len(ratios), [0.0] * len(ratios), 0
        reused.append(reuse)
    return letters(reused)


def through(times, values, time):
    """Lagrange's polynomial through all points, at `time`."""
    return sum(y * math.prod((time - b) / (a - b) for b in times if b != a) for a, y in zip(times, values, strict=True))


def embedded(steps, sigmas, tolerance, order):
    times, values, reused = [], [], []
    for time, (_, _, y) in zip(sigmas, steps, strict=True):
        reuse = False
        if len(times) > order:
            high = through(times[-order - 1 :], values[-order - 1 :], time)
            low = through(times[-order:], values[-order:], time)
            reuse = mean(high - low) / mean(values[-1]) < tolerance
        if not reuse:
            times.append(time)
            values.append(y)
        reused.append(reuse)
    return letters(reused)


def examined(steps, sigmas, tolerance, power, order):
    times, values, rate, total, reused = [], [], None, 0.0, []
    for time, (_, _, y) in zip(sigmas, steps, strict=True):
        reuse = False
        if rate is not None:
            total += rate * abs(time - times[-1]) ** power
            reuse = total < tolerance
        if not reuse:
            if times:
                forecast = through(times[-order - 1 :], values[-order - 1 :], time)
                rate = ((forecast - y).norm() / y.norm()).item() / abs(time - times[-1]) ** power
            times.append(time)
            values.append(y)
            total = 0.0
        reused.append(reuse)
    return letters(reused)


def swap(steps):
    """The latent takes the place of the probe, for policies that look at the latent."""
    return [(x, x, y) for x, _, y in steps]


RUNS = [("smooth", 1, 0), ("smooth", 2, 1), ("random", 1, 0), ("random", 3, 1)]


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[0]}-{run[1]}-rows")
def steps(request):
    kind, rows, seed = request.param
    return walk(kind, rows=rows, seed=seed)


class TestAgainstThePaper:
    @pytest.mark.parametrize("threshold", [0.25, 0.4, 0.6, 0.8])
    def test_teacache(self, steps, threshold):
        policy = Tail(Warmup(Drift(threshold, polynomial=FLUX_CHANGE.coefficients), 1), 1)
        found = play(policy, steps)[0]
        assert found == teacache([p for _, p, _ in steps], threshold, FLUX_CHANGE.coefficients, 1, 1)
        assert {"r", "C"} == set(found)

    def test_teacache_sums_what_its_polynomial_gives_even_below_zero(self, steps):
        probes, falling = [p for _, p, _ in steps], (0.0, 4.0, -0.15)
        assert play(Drift(0.2, polynomial=falling), steps)[0] == teacache(probes, 0.2, falling, 1, 0)
        assert play(Drift(0.2, polynomial=(-1.0, 0.0), signed=False), steps)[0] == play(Drift(0.2), steps)[0]

    @pytest.mark.parametrize("threshold", [0.05, 0.1, 0.3])
    def test_dicache_sums_the_change_of_the_tokens_after_the_first_blocks(self, steps, threshold):
        policy = Drift(threshold, Probe.FIRST_BLOCK, of="input")
        found = play(policy, steps)[0]
        assert found == teacache([x for x, _, _ in steps], threshold, (1.0, 0.0), 1, 0)
        assert {"r", "C"} == set(found)

    @pytest.mark.parametrize(("threshold", "warmup", "longest"), [(0.08, 8, 99), (0.12, 1, 3), (0.3, 4, 2)])
    def test_dbcache_and_first_block_cache(self, steps, threshold, warmup, longest):
        found = play(AtMost(Warmup(Change(threshold), warmup), longest), steps)[0]
        assert found == dbcache([p for _, p, _ in steps], threshold, warmup, longest)
        assert {"r", "C"} == set(found)

    @pytest.mark.parametrize(("threshold", "first"), [(0.02, 2), (0.05, 10), (0.2, 3)])
    def test_easycache(self, steps, threshold, first):
        found = play(Warmup(OutputRate(threshold), first), swap(steps))[0]
        assert found == easycache(swap(steps), threshold, first)
        assert "C" in found

    @pytest.mark.parametrize(
        ("total", "threshold", "longest", "first"), [(28, 0.24, 5, 3), (20, 0.1, 2, 4), (50, 0.06, 3, 10), (28, 1.0, 99, 1)]
    )
    def test_magcache(self, total, threshold, longest, first):
        steps = walk("smooth", total)
        for curves in ((FLUX_MAGNITUDE,), (WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND)):
            policy = Warmup(AtMost(Magnitude(threshold, curves), longest), first)
            found = play(policy, steps)[0]
            assert found == magcache([c.ratios for c in curves], total, threshold, longest, first, curves[0].always)
            assert {"r", "C"} == set(found)

    @pytest.mark.parametrize(("window", "growth", "warmup"), [(2.0, 0.75, 5), (2.0, 3.0, 5), (3.0, 0.0, 1), (1.0, 0.5, 2)])
    def test_spectrum(self, window, growth, warmup):
        found = play(Growing(window, growth, warmup), walk("smooth", 60))[0]
        assert found == spectrum(60, window, growth, warmup)
        assert {"r", "C"} == set(found)

    @pytest.mark.parametrize("mask", [*FLUX_LEMICA, *WAN_I2V_LEMICA], ids=lambda mask: f"{mask.model} {mask.name}")
    @pytest.mark.parametrize("shift", [1.0, 3.0, 7.0])
    def test_lemica_takes_its_list_by_number_whatever_the_shift(self, mask, shift):
        found = play(Carried(mask), walk("smooth", mask.total), flow(mask.total, shift))[0]
        assert found == letters(step not in mask.computed for step in range(mask.total))

    @pytest.mark.parametrize("schedule", [flow(20), flow(28, 5.0), flow(50, 3.0, 0.6), flow(50, 3.0, 1.0, 0.5)])
    def test_a_mask_on_another_schedule_is_carried_over_along_the_noise_level(self, schedule):
        mask = FLUX_LEMICA[1]
        found = play(Carried(mask), walk("smooth", schedule.total), schedule)[0]
        count = round(schedule.total * len(mask.computed) / mask.total)
        assert found == letters(step not in rescale(mask, schedule, count) for step in range(schedule.total))
        assert found.count("C") == count

    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize("tolerance", [0.003, 0.03, 0.2])
    def test_embedded_is_the_difference_of_two_forecasts(self, steps, order, tolerance):
        sigmas = flow(28).sigmas[:-1]
        assert play(Embedded(tolerance, order), steps)[0] == embedded(steps, sigmas, tolerance, order)

    @pytest.mark.parametrize(("predictor", "power"), [(Hold(), 1.0), (Lagrange(1), 2.0)])
    @pytest.mark.parametrize("tolerance", [0.003, 0.03, 0.2])
    def test_accumulated_error_goes_by_the_last_exam(self, steps, predictor, power, tolerance):
        sigmas = flow(28).sigmas[:-1]
        found = play(AccumulatedError(tolerance, power), steps, predictor=predictor)[0]
        assert found == examined(steps, sigmas, tolerance, power, predictor.depth - 1)

    def test_ours_reuse_smooth_runs(self):
        smooth = walk("smooth")
        for policy in (OutputRate(0.05), Embedded(0.03), Embedded(0.03, 2), AccumulatedError(0.03)):
            found = play(policy, swap(smooth), predictor=Lagrange(1))[0]
            assert 5 < found.count("r") < 27, policy
