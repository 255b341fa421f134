"""Which block is computed at which step: arXiv:2312.03209, Eq 7, for a threshold or for a wanted saving."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CacheError
from ..masks import rescale
from ..types import Schedule
from . import file
from .profile import Profile

KIND = "block schedule"
HALVINGS = 40  # of the bracket round delta


@dataclass(frozen=True, slots=True)
class Levels:
    """The computed steps of one block, as noise levels of a schedule."""

    computed: tuple[int, ...]
    sigmas: tuple[float, ...]

    def sigma(self, step: int) -> float:
        """Noise level of `step`."""
        return self.sigmas[step]


@dataclass(frozen=True, slots=True)
class BlockSchedule:
    """The steps that each block computes, of a sampling at noise levels `sigmas` (one more than steps).

    `macs` are the multiply-accumulates of each block in one evaluation and `whole` those of the evaluation.
    """

    name: str
    computed: tuple[frozenset[int], ...]
    sigmas: tuple[float, ...]
    delta: float
    macs: tuple[int, ...]
    whole: int
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        wrong = [block for block, steps in enumerate(self.computed) if 0 not in steps or not steps <= set(range(self.steps))]
        if wrong or not self.computed:
            raise CacheError(
                f"A schedule of {self.steps} steps needs step 0, and steps up to {self.steps - 1}, at each block; "
                f"{f'blocks {wrong} have others' if wrong else 'this one has no block'}. Make it anew from a profile."
            )

    @property
    def steps(self) -> int:
        """Steps of the sampling."""
        return len(self.sigmas) - 1

    @property
    def cached(self) -> tuple[int, ...]:
        """The blocks that are not computed at every step."""
        return tuple(block for block, steps in enumerate(self.computed) if len(steps) < self.steps)

    @property
    def cells(self) -> tuple[tuple[int, float], ...]:
        """The cells that are held, as block and noise level, by block and then from noisy to clean."""
        steps = range(self.steps)
        return tuple((block, self.sigmas[n]) for block in self.cached for n in steps if n not in self.computed[block])

    @property
    def share(self) -> float:
        """Fraction of all cells, block by step, that is computed."""
        return sum(map(len, self.computed)) / (len(self.computed) * self.steps)

    @property
    def expected_macs(self) -> int:
        """Multiply-accumulates of a sampling by this schedule."""
        saved = sum(macs * (self.steps - len(steps)) for macs, steps in zip(self.macs, self.computed, strict=True))
        return self.whole * self.steps - saved

    @property
    def reduction(self) -> float:
        """How many times fewer multiply-accumulates than uncached; where they were not counted, as if the blocks were all."""
        return self.whole * self.steps / self.expected_macs if self.whole else 1 / self.share

    @property
    def digest(self) -> str:
        """A fingerprint of its cells, by which an alignment knows its schedule."""
        cells = json.dumps([sorted(steps) for steps in self.computed])
        return hashlib.blake2b(cells.encode(), digest_size=8).hexdigest()

    def at(self, schedule: Schedule) -> tuple[frozenset[int], ...]:
        """The steps of `schedule` that each block computes: its own, or for other steps the same share, as dense along sigma."""
        if schedule.total == self.steps:
            return self.computed
        return tuple(self._carried(steps, schedule) for steps in self.computed)

    def _carried(self, steps: frozenset[int], schedule: Schedule) -> frozenset[int]:
        count = min(max(round(len(steps) / self.steps * schedule.total), 1), schedule.total)
        return rescale(Levels(tuple(sorted(steps)), self.sigmas), schedule, count)

    def unlike(self, other: "BlockSchedule") -> float:
        """Share of cells in which the two differ, 0 to 1."""
        pairs = zip(self.computed, other.computed, strict=True)
        return sum(len(ours ^ theirs) for ours, theirs in pairs) / (len(self.computed) * self.steps)

    def save(self, path: Path) -> None:
        """Write it to `path`."""
        header: dict[str, Any] = {"name": self.name, "computed": [sorted(steps) for steps in self.computed], "sigmas": self.sigmas}
        header |= {"delta": self.delta, "macs": self.macs, "whole": self.whole, "about": dict(self.about)}
        file.write(path, KIND, {}, header)


def load(path: Path) -> BlockSchedule:
    """Read what `BlockSchedule.save` wrote. Raises CacheError for anything else."""
    _, header = file.read(path, KIND)
    computed = tuple(map(frozenset, header["computed"]))
    sigmas, macs = tuple(header["sigmas"]), tuple(header["macs"])
    return BlockSchedule(header["name"], computed, sigmas, header["delta"], macs, header["whole"], header["about"])


def refreshes(changes: Sequence[float], delta: float) -> frozenset[int]:
    """The steps to compute a block at whose residual changes by `changes[t]` from step t - 1 to t: Eq 7.

    The sum starts with the change at the last computed step itself, as printed. `delta` 0 computes everything.
    """
    computed, total = [0], float(changes[0])
    for step in range(1, len(changes)):
        total += changes[step]
        if total > delta or delta <= 0.0:
            computed.append(step)
            total = changes[step]
    return frozenset(computed)


def schedule(profile: Profile, delta: float, front: int = 0, back: int = 0) -> BlockSchedule:
    """The schedule of threshold `delta` that leaves the first `front` and the last `back` blocks out: they are always computed."""
    if delta < 0.0 or front < 0 or back < 0:
        raise CacheError(f"A threshold of 0 or more is needed, and 0 or more blocks to leave out, not {delta}, {front} and {back}.")
    blocks, steps = profile.blocks, frozenset(range(profile.steps))
    changes = profile.mean[:blocks].tolist()
    computed = tuple(refreshes(changes[n], delta) if front <= n < blocks - back else steps for n in range(blocks))
    return BlockSchedule(profile.name, computed, profile.sigmas, delta, profile.macs[:blocks], profile.whole, dict(profile.about))


def for_reduction(profile: Profile, reduction: float, front: int = 0, back: int = 0) -> BlockSchedule:
    """The schedule of the smallest threshold that makes `reduction` times fewer multiply-accumulates, found by bisection."""
    make: Callable[[float], BlockSchedule] = lambda delta: schedule(profile, delta, front, back)  # noqa: E731
    low, high = 0.0, 2 * float(profile.mean[: profile.blocks].sum(1).max()) + 1.0
    most = make(high)
    if most.reduction < reduction:
        raise CacheError(
            f"The model's blocks allow {most.reduction:.2f} times fewer multiply-accumulates with {front} blocks left out in front and "
            f"{back} at the back, and {reduction:g} are wanted. Leave out fewer, or want less."
        )
    if reduction <= 1.0:
        return make(0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if make(middle).reduction >= reduction else (middle, high)
    return make(high)
