"""Finds out how a sampler of the host steps, by letting it sample the axes of a vector space in place of a latent.

A solver that is linear in its start and in the predictions that it asked for treats every number of a latent alike. So its coefficients
can be read off: the start is one axis, each prediction another, and the latent at each evaluation is the row of its coefficients.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...cache_core.solver import Solver, euler
from . import options

HOME = "comfy."  # modules whose samplers are tried; others may do anything when they are called
MEMORY = 4  # predictions that a solver may remember besides the newest
SMALL = 1e-4  # part of a coefficient that is rounding
LEAST = 0.1  # part of Euler's share of the newest prediction, or else a step cannot be led anywhere by it
Options = tuple[tuple[str, Any], ...]  # a sampler's own, by name
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def solver_of(sampler: Any, sigmas: Sequence[float], model: Any = None) -> Solver | None:
    """How `sampler`, a KSAMPLER, steps over `sigmas`, or None: it draws noise, evaluates more than once a step, or is not linear.

    `model` is the host's (BaseModel), which some samplers ask of what kind it is.
    """
    function, extra = getattr(sampler, "sampler_function", None), getattr(sampler, "extra_options", None) or {}
    if function is None or not str(getattr(function, "__module__", "")).startswith(HOME) or len(sigmas) < 2:
        return None
    try:
        return _found(function, options.sampler_name(sampler), tuple(sorted(extra.items())), tuple(sigmas), _kind(model))
    except TypeError:  # options that are no keys
        return None


def named(name: str, sigmas: Sequence[float], model: Any = None) -> Solver | None:
    """The same of the host's sampler of that name."""
    return solver_of(comfy.samplers.sampler_object(name), sigmas, model)


def shown(solver: Solver | None, sigmas: Sequence[float]) -> Solver | None:
    """None for Euler's steps, as a schedule has it."""
    return None if solver is None or _alike(solver, euler(sigmas)) else solver


@lru_cache(maxsize=32)
def _found(function: Callable[..., Any], name: str, extra: Options, sigmas: tuple[float, ...], kind: Any) -> Solver | None:
    for pictures in (False, True):
        spaces = [_Axes(len(sigmas), scale, kind, pictures) for scale in (1.0, -2.0)]
        try:
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                once, again = (_coefficients(function, dict(extra), sigmas, space) for space in spaces)
            if once is None or again is None or not torch.allclose(once, again, atol=SMALL):  # noise does not grow with the latent
                return None
            rows = _rows(once, sigmas, pictures)
        except FAILURES:
            return None
        if rows is not None:
            return Solver(name, rows, pictures)
    return None


class _Axes:
    """In the place of the model: sees the latent at each evaluation and answers with the next axis, as a picture or a velocity."""

    def __init__(self, count: int, scale: float, kind: Any, pictures: bool) -> None:
        self.seen: list[tuple[float, Tensor]] = []
        patcher = SimpleNamespace(get_model_object={"model_sampling": kind}.__getitem__)
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=kind), model_sampling=kind, model_patcher=patcher)
        self.scale = scale
        self._count, self._pictures = count, pictures

    def unit(self, number: int) -> Tensor:
        """The axis [1, N + 1, 1, 1] of that number."""
        axis = torch.zeros(1, self._count, 1, 1)
        axis[0, number] = self.scale
        return axis

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        level = float(sigma.flatten()[0])
        self.seen.append((level, x.flatten().double()))
        axis = self.unit(len(self.seen))
        return axis if self._pictures else x - level * axis


def _coefficients(function: Callable[..., Any], extra: dict[str, Any], sigmas: tuple[float, ...], axes: _Axes) -> Tensor | None:
    """Coefficients [N + 1, N + 1] of the latent at each of the N evaluations and at the end: of the start and of each prediction."""
    end = function(axes, axes.unit(0), torch.tensor(sigmas), extra_args={"seed": 0}, callback=None, disable=True, **extra)
    told = [sigma for sigma, _ in axes.seen]
    if len(told) != len(sigmas) - 1 or any(abs(a - b) > 1e-4 * b for a, b in zip(told, sigmas, strict=False)):
        return None
    table = torch.stack([*(x for _, x in axes.seen), end.flatten().double()]) / axes.scale
    table[:, 0] /= table[0, 0].clone()
    return table if table.isfinite().all() else None


def _rows(table: Tensor, sigmas: tuple[float, ...], pictures: bool) -> tuple[tuple[float, ...], ...] | None:
    """The rule by which each of the table's rows follows from the one before and the newest predictions, if few are enough."""
    rows = []
    for n, (sigma, after) in enumerate(pairwise(sigmas)):
        keep = float(table[n + 1, 0] / table[n, 0])
        left = (table[n + 1] - keep * table[n])[1 : n + 2].flip(0)  # of the predictions, newest first
        large = (left.abs() > SMALL * left.abs().max()).nonzero()
        used = int(large.max()) + 1 if len(large) else 0
        whole = 1.0 - after / sigma if pictures else sigma - after
        if not 0 < used <= MEMORY + 1 or abs(float(left[0])) < LEAST * whole:
            return None
        rows.append((keep, *left[:used].tolist()))
    return tuple(rows)


def _alike(one: Solver, other: Solver) -> bool:
    pairs = zip(one.rows, other.rows, strict=True)
    return one.pictures == other.pictures and all(
        len(a) == len(b) and all(abs(x - y) <= SMALL * max(abs(y), SMALL) for x, y in zip(a, b, strict=True)) for a, b in pairs
    )


def _kind(model: Any) -> Any:
    """What tells rectified flow from other models."""
    return getattr(model, "model_sampling", None)
