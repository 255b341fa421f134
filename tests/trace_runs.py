"""Smooth trajectories without a network, and what a calibration knows of them."""

import math

import torch
from pack.cache_core.trace import Statistics


def trajectories(schedule, seed=0, rows=6):
    """Euler trajectories [rows, 4, 8, 8] of a smooth velocity that follows the noise level alone."""
    generator = torch.Generator().manual_seed(seed)
    start, *bases = (torch.randn(rows, 4, 8, 8, generator=generator) for _ in range(6))
    waves = (lambda s: 1.0, lambda s: s, lambda s: math.sin(3 * s), lambda s: s**3, lambda s: math.exp(-4 * s))
    velocities = [sum(wave(s) * base for wave, base in zip(waves, bases, strict=True)) for s in schedule.sigmas[:-1]]
    return start, velocities


def statistics(schedule, levels=(), **kwargs):
    start, velocities = trajectories(schedule, **kwargs)
    return Statistics.of(start, velocities, schedule.sigmas[:-1], levels, schedule.sigmas[-1])
