"""Every forecast against a plain loop written from its paper, on synthetic sequences with even and uneven noise levels."""

import math

import numpy as np
import pytest
import torch
from pack.cache_core import History, Observation, Placement, RecipeError, Schedule, Step
from pack.cache_core.predictors import AdamsBashforth, Chebyshev, Corrected, Damped, Hermite, Hold, Lagrange, Scaled, Taylor, TwoAnchor
from pack.cache_core.predictors.axis import Axis, position
from pack.cache_core.predictors.bands import FrequencySplit, low_pass
from pack.cache_core.tables.curves import Curve

STEPS = 20
EVEN = Schedule(tuple(1 - n / STEPS for n in range(STEPS + 1)))
SHIFTED = Schedule(tuple(3 * s / (1 + 2 * s) for s in EVEN.sigmas))  # a flow model's schedule, time shift 3
GAMMA = Curve("test", "none", "none", 3.0, tuple(1.0 + 0.1 * math.sin(n) - 0.02 * n for n in range(STEPS)), 0.1, 2, 0.2)
COMPUTED = [0, 1, 2, 5, 6, 9]  # steps, unevenly spread; step 11 is forecast
NOW = 11
SPLIT = FrequencySplit(Hold(), Hermite(2, 0.71), 0.3)
ALL = [Hold(), Lagrange(1), Lagrange(3), Taylor(2), Taylor(3, Axis.STEP), Hermite(2), Chebyshev(), Chebyshev(2, relative=True)]
ALL += [AdamsBashforth(2), AdamsBashforth(3), Scaled(GAMMA), TwoAnchor(), TwoAnchor(None), SPLIT, Damped(Lagrange(2), 0.6)]
ALL += [Corrected(Lagrange(1), 0.5), Damped(Corrected(Taylor(1), -0.5), 0.9), FrequencySplit(TwoAnchor(), Lagrange(2))]

schedules = pytest.mark.parametrize("schedule", [EVEN, SHIFTED], ids=["even", "shifted"])
everyone = pytest.mark.parametrize("predictor", ALL, ids=str)


@pytest.fixture
def features():
    torch.manual_seed(7)
    return [torch.randn(2, 6, 5) for _ in COMPUTED]


def forecast(predictor, features, schedule=SHIFTED, computed=COMPUTED, now=NOW, *, probes=None, probe=None, like=None):
    history = History(max(predictor.depth, 6), Placement())
    for n, (step, feature) in enumerate(zip(computed, features, strict=True)):
        history.push(schedule.sigmas[step], feature, probes[n] if probes else None)
    seen = Observation(Step(schedule, schedule.sigmas[now], now), probe, 0, len(features))
    return predictor.predict(history, seen, features[-1] if like is None else like)


def probed(predictor, features, **more):
    """A forecast with probes that differ by row, so that any predictor will do."""
    torch.manual_seed(1)
    probes = [torch.randn(*feature.shape[:1], 4, 3) for feature in features]
    return forecast(predictor, features, probes=probes, probe=0.3 * probes[-1] + probes[0], **more)


def taylorseer(times, features, now, order):
    """The authors' cache: at each computed step every factor is the last one's change over the newest gap."""
    factors = []
    for n, feature in enumerate(features):
        fresh = [feature]
        for i in range(min(order, len(factors))):
            fresh.append((fresh[i] - factors[i]) / (times[n] - times[n - 1]))
        factors = fresh
    return factors, now - times[-1]


class TestPolynomials:
    @pytest.mark.parametrize("order", [1, 2, 3])
    @pytest.mark.parametrize(("schedule", "axis"), [(EVEN, Axis.SIGMA), (SHIFTED, Axis.SIGMA), (SHIFTED, Axis.STEP)])
    def test_taylor_is_the_loop_of_taylorseer(self, features, schedule, axis, order):
        times = COMPUTED if axis is Axis.STEP else [schedule.sigmas[n] for n in COMPUTED]
        factors, ahead = taylorseer(times, features, NOW if axis is Axis.STEP else schedule.sigmas[NOW], order)
        expected = sum(factor * ahead**i / math.factorial(i) for i, factor in enumerate(factors))
        torch.testing.assert_close(forecast(Taylor(order, axis), features, schedule), expected)

    def test_taylor_at_a_fixed_interval_is_equation_8(self, features):
        """F(t - k) = sum_i Delta^i F_t / (i! N^i) (-k)^i, Delta^i F_t = sum_j (-1)^(i-j) C(i, j) F_(t + j N)."""
        interval, k, line = 3, 2, features[:3]  # computed at steps 0, 3, 6: the newest is F_t
        expected = 0.0
        for i in range(3):
            delta = sum((-1) ** (i - j) * math.comb(i, j) * line[2 - j] for j in range(i + 1))
            expected = expected + delta * (-k) ** i / (math.factorial(i) * interval**i)
        torch.testing.assert_close(forecast(Taylor(2, Axis.STEP), line, EVEN, [0, 3, 6], 8), expected)

    @pytest.mark.parametrize("scale", [0.5, 0.71])
    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_hermite_is_taylorseer_with_scaled_hermite_polynomials(self, features, order, scale):
        factors, x = taylorseer(COMPUTED, features, NOW * 1.0, order)
        x *= scale
        hermite = [1.0, 2 * x, 4 * x**2 - 2, 8 * x**3 - 12 * x]
        expected = sum(factor * scale**i * hermite[i] / math.factorial(i) for i, factor in enumerate(factors))
        torch.testing.assert_close(forecast(Hermite(order, scale), features), expected)

    @schedules
    @pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
    def test_lagrange_is_exact_up_to_its_order_and_no_further(self, schedule, order):
        def curve(degree, n):
            return torch.tensor([[sum((k + 1) * schedule.sigmas[n] ** k for k in range(degree + 1))]], dtype=torch.float64)

        for degree in (order, order + 1):
            out = forecast(Lagrange(order), [curve(degree, n) for n in COMPUTED], schedule)
            assert torch.allclose(out, curve(degree, NOW), rtol=1e-8) == (degree == order)

    def test_taylor_is_exact_on_lines_and_not_on_parabolas(self):
        lines, parabolas = ([torch.tensor([[float(n) ** d]]) for n in COMPUTED] for d in (1, 2))
        assert [forecast(Taylor(order, Axis.STEP), lines).item() for order in (1, 2)] == pytest.approx([NOW, NOW])
        assert forecast(Taylor(2, Axis.STEP), parabolas).item() != pytest.approx(NOW**2, rel=1e-2)
        assert forecast(Taylor(2, Axis.SIGMA), lines).item() != pytest.approx(NOW, rel=1e-2), "steps are no line over sigma"

    def test_hermite_goes_along_a_line_with_slope_twice_its_scale_squared(self):
        line = [torch.tensor([[float(n)]]) for n in COMPUTED]
        ahead = NOW - COMPUTED[-1]
        for scale in (0.5, math.sqrt(0.5)):
            assert forecast(Hermite(2, scale), line).item() == pytest.approx(COMPUTED[-1] + 2 * scale**2 * ahead)

    def test_an_anchor_too_close_to_the_next_is_left_out(self):
        assert Lagrange(1).weights([0.9, 0.9 - 1e-5], 0.5) == [0.0, 1.0], "nothing else is left: hold"
        assert Lagrange(2).weights([1.0, 0.9, 0.9 - 1e-5], 0.5)[1] == Lagrange(2).weights([0.9, 0.9 - 1e-5, 0.8], 0.5)[0] == 0.0
        assert Lagrange(1).weights([0.9, 0.85], 0.5) == pytest.approx([-7.0, 8.0])
        for gap in 10.0 ** np.arange(-12.0, -0.5, 0.1):
            for predictor in (Lagrange(1), Taylor(1)):
                assert max(map(abs, predictor.weights([0.5 + gap, 0.5], 0.1))) <= 21.0


class TestAdamsBashforth:
    @schedules
    @pytest.mark.parametrize("end", [7, 8, 10])
    def test_a_skipped_run_of_euler_steps_is_one_step_of_order_2(self, features, schedule, end):
        """x_c = x_a + h ((1 + h / 2g) v_a - h / 2g v_b), h = s_c - s_a, g = s_a - s_b."""
        before, newest = features[:2]
        sigmas = schedule.sigmas
        x = (sigmas[6] - sigmas[5]) * newest  # the computed step 5
        for n in range(6, end):
            x = x + (sigmas[n + 1] - sigmas[n]) * forecast(AdamsBashforth(2), [before, newest], schedule, [3, 5], n)
        h, g = sigmas[end] - sigmas[5], sigmas[5] - sigmas[3]
        torch.testing.assert_close(x, h * ((1 + h / (2 * g)) * newest - h / (2 * g) * before))

    @schedules
    @pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
    def test_a_run_integrates_the_polynomial_through_its_anchors(self, schedule, order):
        sigmas, values = np.array(schedule.sigmas), np.random.default_rng(3).normal(size=order)
        steps = [0, 1, 3, 4, 6][-order:]
        features = [torch.tensor([[value]], dtype=torch.float64) for value in values]
        x = (sigmas[7] - sigmas[6]) * values[-1]
        for n in range(7, 10):
            x += (sigmas[n + 1] - sigmas[n]) * forecast(AdamsBashforth(order), features, schedule, steps, n).item()
        antiderivative = np.polyint(np.polyfit(sigmas[steps], values, order - 1))
        assert x == pytest.approx(np.polyval(antiderivative, sigmas[10]) - np.polyval(antiderivative, sigmas[6]), rel=1e-6)


def spectrum(times, features, now, degree, ridge):
    """Ridge regression by least squares on an extended system, each coordinate for itself."""
    x = np.array([[math.cos(m * math.acos(2 * t - 1)) for m in range(degree + 1)] for t in times])
    y = np.stack([feature.double().flatten().numpy() for feature in features])
    x, y = np.vstack([x, math.sqrt(ridge) * np.eye(degree + 1)]), np.vstack([y, np.zeros((degree + 1, y.shape[1]))])
    row = np.array([math.cos(m * math.acos(2 * now - 1)) for m in range(degree + 1)])
    return torch.from_numpy(row @ np.linalg.lstsq(x, y, rcond=None)[0]).view_as(features[0]).float()


class TestChebyshev:
    @pytest.mark.parametrize("count", [1, 2, 6])
    @pytest.mark.parametrize(("degree", "ridge", "blend"), [(4, 0.1, 1.0), (4, 0.1, 0.5), (2, 1.0, 0.7)])
    def test_it_is_a_ridge_fit_blended_with_the_newest_line(self, features, count, degree, ridge, blend):
        steps, features = COMPUTED[-count:], features[-count:]
        line = features[-1]
        if count > 1:
            line = line + (NOW - steps[-1]) / (steps[-1] - steps[-2]) * (line - features[-2])
        fit = spectrum([n / STEPS for n in steps], features, NOW / STEPS, degree, ridge)
        torch.testing.assert_close(forecast(Chebyshev(degree, ridge, blend), features, SHIFTED, steps), blend * fit + (1 - blend) * line)

    def test_over_sigma_and_relative_it_fits_the_differences_to_the_newest_anchor(self, features):
        times = [SHIFTED.sigmas[n] for n in COMPUTED]
        gaps = [feature - features[-1] for feature in features]
        expected = features[-1] + spectrum(times, gaps, SHIFTED.sigmas[NOW], 4, 0.1)
        torch.testing.assert_close(forecast(Chebyshev(blend=1.0, relative=True, axis=Axis.SIGMA), features), expected)

    def test_with_hardly_a_ridge_it_is_exact_up_to_its_degree_and_no_further(self):
        for degree in (4, 5):
            *curve, truth = (torch.tensor([[(n / STEPS) ** degree]], dtype=torch.float64) for n in (*COMPUTED, NOW))
            assert torch.allclose(forecast(Chebyshev(4, 1e-12, 1.0), curve), truth, rtol=1e-4) == (degree == 4)

    def test_as_published_a_constant_shrinks(self):
        still = [torch.ones(1, 1)] * 6
        assert forecast(Chebyshev(blend=1.0), still).item() == pytest.approx(0.849, abs=1e-3)
        assert forecast(Chebyshev(blend=1.0, relative=True), still).item() == pytest.approx(1.0)


class TestResiduals:
    @pytest.mark.parametrize("now", [NOW, STEPS - 1])
    def test_scaled_is_the_product_of_gamma_over_the_skipped_steps(self, features, now):
        gamma = math.prod(GAMMA.ratios[step] for step in range(COMPUTED[-1] + 1, now + 1))
        torch.testing.assert_close(forecast(Scaled(GAMMA), features, now=now), gamma * features[-1])
        torch.testing.assert_close(forecast(Scaled(GAMMA, scale=False), features, now=now), features[-1])

    @pytest.mark.parametrize("first", [0, 3])
    def test_on_another_schedule_it_comes_to_the_same_size_in_other_steps(self, first):
        every_third = Schedule(tuple((SHIFTED.sigmas[n] + SHIFTED.sigmas[n + 1]) / 2 for n in range(first, STEPS, 3)))
        sizes = [forecast(Scaled(GAMMA), [torch.ones(1)], every_third, [n - 1], n).item() for n in range(1, every_third.total)]
        logs = np.append(0.0, np.cumsum(np.log(GAMMA.ratios[1:])))
        time = np.array([sigma / (3 - 2 * sigma) for sigma in every_third.sigmas[:-1]])  # of shift 3
        assert sizes == pytest.approx(np.exp(np.diff(np.interp(STEPS * (1 - time), range(STEPS), logs))))

    @pytest.mark.parametrize("clip", [None, (1.0, 1.5), (0.0, 0.4)])
    def test_two_anchor_goes_as_far_as_the_probe_has_gone(self, features, clip):
        b, a, now = torch.randn(3, 2, 4, 3).unbind()
        probes = [torch.randn(2, 4, 3)] * 4 + [b, a]
        out = forecast(TwoAnchor(clip), features, probes=probes, probe=now)
        for row in range(2):
            gamma = ((now[row] - b[row]).abs().mean() / (a[row] - b[row]).abs().mean()).item()
            gamma = gamma if clip is None else min(max(gamma, clip[0]), clip[1])
            torch.testing.assert_close(out[row], features[-2][row] + gamma * (features[-1][row] - features[-2][row]))

    def test_two_anchor_holds_where_the_probe_stood_still_or_one_anchor_is_all(self, features):
        still = [torch.ones(2, 4, 3)] * 6
        torch.testing.assert_close(forecast(TwoAnchor(None), features, probes=still, probe=torch.randn(2, 4, 3)), features[-1])
        torch.testing.assert_close(forecast(TwoAnchor(), features[:1], computed=[0]), features[0])

    def test_two_anchor_without_a_probe_says_so(self, features):
        with pytest.raises(RecipeError, match="3 probes and was shown 0"):
            forecast(TwoAnchor(), features)


def split(x, cutoff):
    """The low band by a complex FFT with an explicit mask over all frequencies."""
    dims = (-2, -1) if x.ndim > 3 else (1,)
    radius = torch.zeros(1)
    for dim in dims:
        size = [x.shape[dim] if d == dim % x.ndim else 1 for d in range(x.ndim)]
        radius = radius + torch.fft.fftfreq(x.shape[dim]).view(size) ** 2
    mask = radius.sqrt() <= cutoff * radius.sqrt().max() + 1e-6
    return torch.fft.ifftn(torch.fft.fftn(x, dim=dims) * mask, dim=dims).real


class TestFrequencySplit:
    @pytest.mark.parametrize("shape", [(2, 21, 5), (2, 3, 8, 11), (1, 3, 2, 9, 6)])
    def test_the_low_band_is_held_and_the_high_one_forecast(self, shape):
        torch.manual_seed(2)
        features = [torch.randn(shape) for _ in COMPUTED]
        low = split(forecast(Hold(), features), 0.3)
        high = forecast(Hermite(2, 0.71), features)
        torch.testing.assert_close(forecast(SPLIT, features), low + high - split(high, 0.3), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("cutoff", [0.0, 0.1, 0.5, 1.0])
    @pytest.mark.parametrize("shape", [(2, 20, 5), (2, 3, 8, 8), (2, 3, 7, 5)])
    def test_the_bands_are_orthogonal_and_split_once_for_all(self, shape, cutoff):
        x = torch.randn(shape, dtype=torch.float64)
        low = low_pass(x, cutoff)
        torch.testing.assert_close(low_pass(low, cutoff), low)
        assert (low * (x - low)).sum().item() == pytest.approx(0.0, abs=1e-9)
        assert torch.allclose(low, x) == (cutoff == 1.0)
        torch.testing.assert_close(low_pass(torch.ones_like(x), cutoff), torch.ones_like(x))


class TestCorrectors:
    @schedules
    def test_damped_goes_part_of_the_way(self, features, schedule):
        whole, damped = (forecast(predictor, features, schedule) for predictor in (Lagrange(1), Damped(Lagrange(1), 0.3)))
        torch.testing.assert_close(damped, features[-1] + 0.3 * (whole - features[-1]))

    @schedules
    @pytest.mark.parametrize("inner", [Hold(), Lagrange(1), Taylor(2, Axis.STEP), Scaled(GAMMA), AdamsBashforth(2)], ids=str)
    def test_corrected_adds_the_error_it_would_have_made_at_the_newest_anchor(self, features, schedule, inner):
        missed = features[-1] - forecast(inner, features[:-1], schedule, COMPUTED[:-1], COMPUTED[-1])
        corrected = forecast(Corrected(inner, 0.4), features, schedule)
        torch.testing.assert_close(corrected, forecast(inner, features, schedule) + 0.4 * missed)

    @pytest.mark.parametrize("wrong", [lambda: Damped(TwoAnchor(), 0.5), lambda: Corrected(SPLIT, 0.5)])
    def test_they_refuse_what_is_no_weighted_sum(self, wrong):
        with pytest.raises(RecipeError, match="weighted sum"):
            wrong()


class TestEvery:
    @everyone
    def test_any_number_of_anchors_will_do_and_more_than_its_depth_change_nothing(self, predictor, features):
        for count in range(1, 7):
            out = probed(predictor, features[-count:], computed=COMPUTED[-count:])
            assert out.isfinite().all()
        if predictor.depth < 6:
            swapped = [torch.randn_like(f) for f in features[: 6 - predictor.depth]] + features[6 - predictor.depth :]
            assert torch.equal(probed(predictor, features), probed(predictor, swapped))

    @everyone
    def test_rows_of_a_batch_do_not_touch_each_other(self, predictor, features):
        other = [torch.stack([feature[0], torch.randn(6, 5)]) for feature in features]
        torch.testing.assert_close(probed(predictor, features)[0], probed(predictor, other)[0])

    @everyone
    def test_half_precision_is_summed_in_float32_and_nothing_given_is_written_to(self, predictor, features):
        half = [feature.bfloat16() for feature in features]
        kept, x = [feature.clone() for feature in half], half[-1].clone()
        out, wide = probed(predictor, half, like=x), probed(predictor, [feature.float() for feature in half])
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), wide, rtol=2**-8, atol=1e-5)
        out.fill_(7.0)
        assert all(torch.equal(a, b) for a, b in zip([*half, x], [*kept, kept[-1]], strict=True))


def test_the_step_axis_is_linear_between_the_noise_levels_of_a_schedule():
    for n, sigma in enumerate(SHIFTED.sigmas[:-1]):
        assert position(sigma, SHIFTED) == n == position(sigma * (1 + 5e-5), SHIFTED)
        assert position((sigma + SHIFTED.sigmas[n + 1]) / 2, SHIFTED) == pytest.approx(n + 0.5)
    assert Axis.PROGRESS.at(SHIFTED.sigmas[5], SHIFTED) == pytest.approx(5 / STEPS)
    assert position(0.5, Schedule((1.0, 0.5, 0.5, 0.0))) == 2
    assert position(0.0, SHIFTED) == STEPS
