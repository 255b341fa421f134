"""The published methods as plain loops over what a run showed, written from the papers and their authors' code.

A run is `steps[n][branch] = (x, probe, y, picture)`, the last being the rows of x without text: branches are conditions that
are computed together, so that an evaluation is reused only if every branch would. A loop returns what it did, True = reused,
and what each branch measured (None = nothing).
"""

import math

import numpy as np
import torch


def mean(x):
    return x.abs().mean().item()


def letters(reused):
    return "".join("r" if reuse else "C" for reuse in reused)


def interval(total, every, warmup):
    """cal_type.py of TaylorSeer: the first steps, then each time the counter has come to the interval."""
    counter, reused = 0, []
    for n in range(total):
        full = n < warmup or n == 0 or counter == every - 1
        counter = 0 if full else counter + 1
        reused.append(not full)
    return reused, [None] * total


def growing(total, window, growth, warmup, tail):
    """Spectrum's code: after the warm-up a window that each computed evaluation makes wider."""
    cached, reused = 0, []
    for n in range(total):
        full = n < warmup or n >= total - tail or (cached + 1) % math.floor(window) == 0
        window += growth * (full and n >= warmup)
        cached = 0 if full else cached + 1
        reused.append(not full)
    return reused, [None] * total


def summed_change(steps, threshold, of, f, first, last):
    """teacache_flux.py, and with the identity for f dicache.py: changes from evaluation to evaluation, summed until one computes."""
    branches, total, reused, scores = range(len(steps[0])), len(steps), [], []
    sums = [0.0 for _ in branches]
    for n, shown in enumerate(steps):
        if n > 0:
            sums = [sums[k] + f(mean(shown[k][of] - steps[n - 1][k][of]) / mean(steps[n - 1][k][of])) for k in branches]
        scores.append(list(sums) if n > 0 else None)
        reused.append(first <= n < total - last and all(value < threshold for value in sums))
        sums = sums if reused[-1] else [0.0 for _ in branches]
    return reused, scores


def change_since_computed(steps, threshold, warmup=1, longest=10**9):
    """cache-dit's can_cache: the change since the last computed evaluation, not summed."""
    kept, run, reused, scores = None, 0, [], []
    for n, shown in enumerate(steps):
        probes = [probe for _, probe, *_ in shown]
        changes = None if kept is None else [mean(a - b) / mean(b) for a, b in zip(probes, kept, strict=True)]
        reuse = n >= warmup and run < longest and all(change < threshold for change in changes)
        kept, run = (kept, run + 1) if reuse else (probes, 0)
        reused.append(reuse)
        scores.append(changes)
    return reused, scores


def output_rate(steps, threshold, first, last):
    """easycache_generate.py, the rate of each branch for itself; computed up to `first` and from `last`."""
    branches, reused, scores = range(len(steps[0])), [], []
    rate, error, before, kept = [None for _ in branches], [0.0 for _ in branches], None, None
    for n, shown in enumerate(steps):
        known = n > 0 and None not in rate
        if known:
            moved = [mean(shown[k][0] - before[k][0]) for k in branches]
            error = [error[k] + rate[k] * moved[k] / mean(kept[k][2]) for k in branches]
        reuse = known and first <= n < last and all(e < threshold for e in error)
        reused.append(reuse)
        scores.append(list(error) if known else None)
        if not reuse:
            if kept is not None:
                rate = [mean(shown[k][2] - kept[k][2]) / mean(shown[k][0] - kept[k][0]) for k in branches]
            kept, error = shown, [0.0 for _ in branches]
        before = shown
    return reused, scores


def magnitude(total, curves, threshold, longest, first):
    """magcache_flux.py: ratios of the nearest step of the curve; the error of the worse of two curves."""
    ratio, error, run, reused, scores = [1.0] * len(curves), [0.0] * len(curves), 0, [], []
    for n in range(total):
        at = round(n * (len(curves[0].ratios) - 1) / (total - 1))
        if n > 0:
            run += 1
            ratio = [value * curve.ratios[at] for value, curve in zip(ratio, curves, strict=True)]
            error = [value + abs(1 - size) for value, size in zip(error, ratio, strict=True)]
        scores.append([max(error)] if n > 0 else None)
        reuse = n >= first and max(error) < threshold and run <= longest and at not in curves[0].always
        if not reuse:
            ratio, error, run = [1.0] * len(curves), [0.0] * len(curves), 0
        reused.append(reuse)
    return reused, scores


def paced(sigmas, masks, speed):
    """The printed mask of the nearest share, for as many steps as lie below total / speed."""
    count = max(math.ceil(len(sigmas) / speed - 1e-9) - 1, 5)
    mask = min(masks, key=lambda mask: abs(math.log(len(mask.computed) / mask.total * len(sigmas) / count)))
    return stretched(sigmas, mask, count)


def stretched(sigmas, mask, count):
    """`count` steps of another grid of sigmas, as dense along sigma as the printed mask."""
    total = len(sigmas)
    times = 1 - np.array(mask.computed) / mask.total
    levels = mask.shift * times / (1 + (mask.shift - 1) * times)
    ranks = np.interp(-np.array(sigmas), -levels, range(len(levels)))
    ranks = (ranks - ranks[0]) * (count - 1) / (ranks[-1] - ranks[0])
    chosen = [0]
    for rank in range(1, count):
        free = range(chosen[-1] + 1, total - count + 1 + rank)
        chosen.append(min(free, key=lambda n: abs(ranks[n] - rank)))
    return [n not in chosen for n in range(total)], [None] * total


def through(times, values, time):
    """Lagrange's polynomial through all points, at `time`."""
    return sum(y * math.prod((time - b) / (a - b) for b in times if b != a) for a, y in zip(times, values, strict=True))


def embedded_pair(steps, sigmas, tolerance, order):
    """An error pair as in ODE solvers: the forecasts of two orders, computed as such."""
    times, values, reused, scores = [], [], [], []
    for time, shown in zip(sigmas, steps, strict=True):
        gap = None
        if len(times) > order:
            high, low = (through(times[-k:], values[-k:], time) for k in (order + 1, order))
            gap = mean(high - low) / mean(values[-1])
        reused.append(gap is not None and gap < tolerance)
        scores.append(None if gap is None else [gap])
        if not reused[-1]:
            times.append(time)
            values.append(shown[0][2])
    return reused, scores


def examined(steps, sigmas, tolerance, power, order):
    """Golden Path's cost of a run, its rate measured at each computed evaluation by the forecast that was not needed."""
    times, values, rate, total, reused, scores = [], [], None, 0.0, [], []
    for time, shown in zip(sigmas, steps, strict=True):
        y = shown[0][2]
        total = total + rate * abs(time - times[-1]) ** power if rate is not None else 0.0
        reused.append(rate is not None and total < tolerance)
        scores.append(None if rate is None else [total])
        if not reused[-1]:
            if times:
                forecast = through(times[-order - 1 :], values[-order - 1 :], time)
                rate = ((forecast - y).norm() / y.norm()).item() / abs(time - times[-1]) ** power
            times, values, total = [*times, time], [*values, y], 0.0
    return reused, scores


def hold(anchors, now):
    """The last feature."""
    return anchors[-1].feature


def line(anchors, now):
    """v_a + (s - s_a) / (s_a - s_b) (v_a - v_b)."""
    if len(anchors) < 2:
        return anchors[-1].feature
    b, a = anchors[-2:]
    return a.feature + (now.sigma - a.sigma) / (a.sigma - b.sigma) * (a.feature - b.feature)


def differences(anchors, order):
    """TaylorSeer's derivative_approximation: at each computed step every factor is the last one's change over the newest gap."""
    factors = []
    for n, anchor in enumerate(anchors):
        fresh = [anchor.feature]
        for i in range(min(order, len(factors))):
            fresh.append((fresh[i] - factors[i]) / (anchor.step - anchors[n - 1].step))
        factors = fresh
    return factors


def taylor(order):
    """TaylorSeer, equation 8, on steps."""

    def forecast(anchors, now):
        ahead = now.step - anchors[-1].step
        return sum(factor * ahead**i / math.factorial(i) for i, factor in enumerate(differences(anchors, order)))

    return forecast


def hermite(order, scale):
    """HiCache: scaled polynomials of Hermite in place of powers."""

    def forecast(anchors, now):
        x = scale * (now.step - anchors[-1].step)
        values = [1.0, 2 * x, 4 * x**2 - 2]
        return sum(factor * scale**i * values[i] / math.factorial(i) for i, factor in enumerate(differences(anchors, order)))

    return forecast


def two_bands(cutoff, order, scale):
    """FreqCa: low frequencies along the tokens held, high ones by Hermite polynomials."""

    def forecast(anchors, now):
        high = hermite(order, scale)(anchors, now)
        radius = torch.fft.fftfreq(high.shape[1]).abs().view(1, -1, 1)
        low = radius <= cutoff * radius.max() + 1e-6
        return torch.fft.ifft(torch.where(low, torch.fft.fft(anchors[-1].feature, dim=1), torch.fft.fft(high, dim=1)), dim=1).real

    return forecast


def ridge(degree, strength, blend):
    """Spectrum: least squares on a system extended by the ridge, and the line over steps."""

    def forecast(anchors, now):
        x = np.array([[math.cos(m * math.acos(2 * a.step / now.total - 1)) for m in range(degree + 1)] for a in anchors])
        y = np.stack([a.feature.double().flatten().numpy() for a in anchors])
        x, y = np.vstack([x, math.sqrt(strength) * np.eye(degree + 1)]), np.vstack([y, np.zeros((degree + 1, y.shape[1]))])
        row = np.array([math.cos(m * math.acos(2 * now.step / now.total - 1)) for m in range(degree + 1)])
        curve = torch.from_numpy(row @ np.linalg.lstsq(x, y, rcond=None)[0]).view_as(anchors[-1].feature)
        return (blend * curve + (1 - blend) * taylor(1)(anchors, now)).float()

    return forecast


def two_anchors(low, high):
    """DiCache: as far from the last residual but one to the last as the probe has gone."""

    def forecast(anchors, now):
        if len(anchors) < 2:
            return anchors[-1].feature
        b, a = anchors[-2:]
        gamma = min(max(mean(now.probe - b.probe) / mean(a.probe - b.probe), low), high)
        return b.feature + gamma * (a.feature - b.feature)

    return forecast
