"""The words the rest of the package is written in. No behaviour beyond look-ups lives here.

What is made anew at every evaluation is not frozen, since that takes longer to make.
"""

from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

from .errors import CacheError
from .measure import Ratio
from .solver import Solver

StreamKey = Hashable


class Probe(Enum):
    """What a policy must be shown before it can decide."""

    NOTHING = "nothing"  # decides from the step alone
    LATENT = "latent"  # the solver's current state, [B, C, (F,) H, W]
    MODULATED = "modulated input"  # the first block's picture tokens after norm and modulation, [B, L, D]; Wan's time projection
    EMBEDDING = "time embedding"  # before that projection, [B, L, D]; Wan alone shows it
    FIRST_BLOCK = "first-block residual"  # what the blocks that always run add to the picture tokens, [B, L, D]

    @property
    def inside(self) -> bool:
        """Whether only the inside of a network can show it."""
        return self in (Probe.MODULATED, Probe.EMBEDDING, Probe.FIRST_BLOCK)


class Branch(Enum):
    """The parts of a transformer block whose outputs are added to the tokens."""

    ATTENTION = "attention"
    CROSS = "cross-attention"
    MLP = "mlp"


@dataclass(frozen=True, slots=True)
class Place:
    """Which part of the network a stream stands at: the span at the site stack, the block at block and branch, from 0."""

    index: int
    branch: Branch | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The noise levels of one sampling: `sigmas`, noisiest first, one more than there are steps.

    `solver` tells how it goes from one to the next; None is Euler's method, or one whose rule is not known.
    """

    sigmas: tuple[float, ...]
    solver: Solver | None = field(default=None, repr=False)
    total: int = field(init=False, repr=False, compare=False)  # steps
    _hash: int = field(init=False, repr=False, compare=False)  # schedules are keys of caches that every evaluation looks into
    _rising: tuple[float, ...] = field(init=False, repr=False, compare=False)  # where steps start, with a minus
    places: dict[float, int] = field(init=False, repr=False, compare=False)  # the step at each of the sigmas

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", len(self.sigmas) - 1)
        object.__setattr__(self, "_hash", hash((self.sigmas, self.solver)))
        object.__setattr__(self, "_rising", tuple(-sigma for sigma in self.sigmas[:-1]))
        object.__setattr__(self, "places", {sigma: self.index(sigma) for sigma in self.sigmas})
        if len(self.sigmas) < 2 or any(a < b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False)):
            raise CacheError(
                f"A schedule needs at least two sigmas that never rise, and got {len(self.sigmas)}: "
                f"{[round(sigma, 4) for sigma in self.sigmas[:8]]}. Use a scheduler whose sigmas go down."
            )

    def __hash__(self) -> int:
        return self._hash

    def index(self, sigma: float) -> int:
        """The step, 0 to total - 1, that an evaluation at `sigma` belongs to: the last one that starts at it or above."""
        return max(bisect_left(self._rising, -sigma * (1.0 - 1e-4)) - 1, 0)


@dataclass(slots=True, init=False)
class Step:
    """Where one evaluation of the solver stands in the sampling.

    `index` counts the schedule's steps from 0 (noisiest). Samplers such as Heun evaluate more than once a step and
    between the schedule's sigmas, so `evaluation` counts the calls and `sigma` is the noise level really used.
    """

    schedule: Schedule
    sigma: float
    evaluation: int
    index: int = field(init=False, compare=False)

    def __init__(self, schedule: Schedule, sigma: float, evaluation: int) -> None:
        self.schedule, self.sigma, self.evaluation = schedule, sigma, evaluation
        index = schedule.places.get(sigma)
        self.index = schedule.index(sigma) if index is None else index

    @property
    def total(self) -> int:
        return self.schedule.total

    @property
    def progress(self) -> float:
        """Fraction of the schedule behind this evaluation, in [0, 1)."""
        return self.index / self.total


@dataclass(slots=True, eq=False)
class Case:
    """What a run is asked about: one condition, the site's input `x` [B, ...] for it, and what its policy wants to see.

    `place` tells the parts of the network apart, at the sites that have several. `picture` are the rows of `x` that policies
    compare, the text tokens left out; None = all.
    """

    key: StreamKey
    x: Tensor
    probe: Tensor | None = None
    place: Place | None = None
    picture: Tensor | None = None
    stream: Any = None  # the run's own: which of its streams this is


@dataclass(slots=True)
class Observation:
    """All a policy may look at. `probe` has one stream's rows only, or is None for Probe.NOTHING."""

    step: Step
    probe: Tensor | None
    age: int  # evaluations reused since the last computed one
    computed: int  # evaluations computed so far in this run
    x: Tensor | None = None  # the site's input [B, ...], of tokens the picture's
    error: Ratio | None = None  # when a computed evaluation is settled: relative error of the forecast it did not need
    place: Place | None = None


@dataclass(slots=True)
class Verdict:
    """A policy's wish. The run may still compute: conditions evaluated together are skipped together."""

    reuse: bool
    reason: str
    score: float | None = None
