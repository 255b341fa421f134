"""Reuse while a measured curve of residual sizes says that the error is small (MagCache)."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import RecipeError
from ..tables.curves import Curve, place
from ..types import Observation, Probe, Schedule, Verdict
from .base import below, check_limit


@dataclass(slots=True)
class MagnitudeState:
    """The step asked about last; for each curve the residual's size relative to the kept one, and the error summed."""

    index: int | None = None
    sizes: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Of a schedule's steps: the gamma of each on each curve, and those that some curve has always computed."""

    gammas: tuple[list[float], ...]
    always: frozenset[int]


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Reuse while the error that `curves` foretell stays under `threshold`.

    MagCache (arXiv:2506.09045), algorithm 1, in the form of the authors' code: each evaluation rho *= gamma_t, error += |1 - rho|,
    both from their start, 1 and 0, after a computed one. FLUX's code has <= where Wan's has <; here it is <. The longest run
    and the computed start are the guards AtMost and Retained. Curves of several conditions
    are judged by the worst of them, since conditions are skipped together. The authors and diffusers count calls, and at two
    evaluations a step read the curve at twice its pace; here steps are looked up on the curve's own grid (`tables.place`), a
    solver's second evaluation in a step counts that step's gamma again, and steps it passed over count. `Curve.always` is in
    the authors' code and not in diffusers'.
    """

    threshold: float
    curves: tuple[Curve, ...]
    _known: dict[Schedule, Reading] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_limit("Magnitude", "threshold", self.threshold)
        if not self.curves:
            raise RecipeError(f"Magnitude needs a curve for the model, not {self.curves}: tables.py has those of FLUX and Wan.")

    @property
    def probe(self) -> Probe:
        return Probe.NOTHING

    def init(self) -> MagnitudeState:
        return MagnitudeState()

    def propose(self, state: MagnitudeState, seen: Observation) -> tuple[Verdict, MagnitudeState]:
        schedule, index = seen.step.schedule, seen.step.index
        if state.index is None or index < state.index:
            return Verdict(False, f"step {index} has no step before it"), state
        read = self._known.get(schedule) or self._read(schedule)
        first = min(state.index + 1, index)
        sizes = tuple([size * math.prod(gammas[first : index + 1]) for size, gammas in zip(state.sizes, read.gammas, strict=True)])
        errors = tuple([error + abs(1.0 - size) for error, size in zip(state.errors, sizes, strict=True)])
        verdict = below("error", max(errors), self.threshold)
        if index in read.always:
            verdict = Verdict(False, f"step {index} is always computed with this curve", verdict.score)
        return verdict, MagnitudeState(index, sizes, errors)

    def settle(self, state: MagnitudeState, seen: Observation, output: Tensor | None) -> MagnitudeState:
        if output is None:
            return state
        return MagnitudeState(seen.step.index, (1.0,) * len(self.curves), (0.0,) * len(self.curves))

    def _read(self, schedule: Schedule) -> Reading:
        """Look the steps of `schedule` up on the curves, once."""
        places = [[place(curve, schedule, index) for index in range(schedule.total)] for curve in self.curves]
        gammas = tuple([curve.ratios[n] for n in found] for curve, found in zip(self.curves, places, strict=True))
        always = {index for curve, found in zip(self.curves, places, strict=True) for index, n in enumerate(found) if n in curve.always}
        read = self._known[schedule] = Reading(gammas, frozenset(always))
        return read
