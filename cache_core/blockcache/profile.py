"""How much each block changes from step to step, measured while an uncached sampling goes by: arXiv:2312.03209, section 3.2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheError
from ..types import Branch, Observation, Place, Schedule
from . import file

KIND = "block profile"


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Relative changes of the residuals at `places` (blocks first, then branches) between the steps of one schedule.

    `changes` [trajectories, places, steps] is Eq 6, at step 0 zero. `macs` are the multiply-accumulates of each place in one
    evaluation, `whole` those of the evaluation; 0 where they could not be counted. `about` says what was sampled. The blocks
    `joint` make attention and MLP in one: what stands at their attention is of both.
    """

    name: str
    places: tuple[Place, ...]
    changes: Tensor
    sigmas: tuple[float, ...]
    macs: tuple[int, ...]
    whole: int
    about: Mapping[str, Any] = field(default_factory=dict)
    joint: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """Steps of the schedule."""
        return len(self.sigmas) - 1

    @property
    def trajectories(self) -> int:
        """Samplings that it was measured on."""
        return len(self.changes)

    @property
    def blocks(self) -> int:
        """Blocks of the network; its branches left out."""
        return sum(place.branch is None for place in self.places)

    @property
    def mean(self) -> Tensor:
        """Mean over trajectories, [places, steps]."""
        return self.changes.mean(0)

    @property
    def spread(self) -> Tensor:
        """Standard deviation over trajectories, [places, steps]; 0 of a single one."""
        return self.changes.std(0, correction=1 if self.trajectories > 1 else 0)

    def branch(self, place: Place) -> str:
        """What a branch is called, "" for a block."""
        both = place.branch is Branch.ATTENTION and place.index in self.joint
        return f"{Branch.ATTENTION.value} + {Branch.MLP.value}" if both else place.branch.value if place.branch else ""

    def first(self, count: int) -> "Profile":
        """The profile of the first `count` trajectories alone."""
        return replace(self, changes=self.changes[:count])

    def and_(self, other: "Profile") -> "Profile":
        """Both measurements of one model as one. Raises CacheError unless they are of one schedule and one set of blocks."""
        if self.places != other.places or self.sigmas != other.sigmas:
            raise CacheError("Two measurements of different schedules or blocks cannot be joined. Profile with one setting.")
        return replace(self, changes=torch.cat([self.changes, other.changes]))

    def beside(self, other: "Profile") -> "Profile":
        """This profile with the places of another one of the same trajectories, such as their branches."""
        if self.sigmas != other.sigmas or self.trajectories != other.trajectories:
            raise CacheError("Two measurements of different schedules or trajectories cannot stand side by side. Profile with one setting.")
        changes = torch.cat([self.changes, other.changes], 1)
        return replace(self, places=self.places + other.places, changes=changes, macs=self.macs + other.macs)

    def save(self, path: Path) -> None:
        """Write it to `path`."""
        header = {"name": self.name, "sigmas": self.sigmas, "macs": self.macs, "whole": self.whole, "about": dict(self.about)}
        places = {"places": [file.place_words(place) for place in self.places], "joint": self.joint}
        file.write(path, KIND, {"changes": self.changes}, header | places)


def load(path: Path) -> Profile:
    """Read what `Profile.save` wrote. Raises CacheError for anything else."""
    tensors, header = file.read(path, KIND)
    places = tuple(file.place_of(words) for words in header["places"])
    sigmas, macs, joint = (tuple(header.get(name, ())) for name in ("sigmas", "macs", "joint"))  # older files have no `joint`
    return Profile(header["name"], places, tensors["changes"], sigmas, macs, header["whole"], header["about"], joint)


class Changes:
    """Eq 6 of the trajectories that are sampled together, summed up place by place as their residuals pass.

    Nothing is kept of a residual but two numbers for each sample; the residual before is the run's own anchor. Conditions,
    and the results of a branch that has several, count together: their norms are added. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[Place, int], Tensor] = {}
        self._schedule: Schedule | None = None

    def look(self, seen: Observation, new: Tensor, old: Tensor | None) -> None:
        """A residual `new` [B, ...] and the one before it, if any; a sampler's later evaluations within a step are added up.

        What comes from outside of the network, of a sampling that had to leave it, is no residual and left out.
        """
        if seen.place is None:
            return
        self._schedule, place, index = seen.step.schedule, seen.place, seen.step.index
        gap = _norms(new - old.to(new.device)) if old is not None else torch.zeros(len(new), device=new.device)
        found = torch.stack([gap, _norms(new)])
        known = self._sums.get((place, index))
        self._sums[place, index] = found if known is None else known + found

    def profile(self, name: str, macs: Mapping[Any, int], whole: int, about: Mapping[str, Any]) -> Profile:
        """What was measured. Raises CacheError if no block passed by."""
        places = sorted({place for place, _ in self._sums}, key=lambda place: (place.branch is not None, place.index, str(place.branch)))
        schedule = self._schedule
        if schedule is None:
            raise CacheError("No block of this model could be measured. Block Caching reaches the blocks of Flux, Wan and their kin.")
        rows = [torch.stack([self._change(place, step) for step in range(schedule.total)], -1) for place in places]
        changes = torch.stack(rows, 1).cpu()
        return Profile(name, tuple(places), changes, schedule.sigmas, tuple(macs.get(place, 0) for place in places), whole, about)

    def _change(self, place: Place, step: int) -> Tensor:
        """Eq 6 at one place and step, [B]; zero where nothing came before, or at a step without an evaluation."""
        if step == 0 or (place, step) not in self._sums:
            return torch.zeros_like(next(iter(self._sums.values()))[0])
        gap, size = self._sums[place, step]
        change: Tensor = gap / size.clamp_min(torch.finfo(torch.float32).tiny)
        return change


def _norms(tensor: Tensor) -> Tensor:
    """L1 norm of each sample of a tensor [B, ...], in float32."""
    return tensor.abs().flatten(1).sum(1, dtype=torch.float32)


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """Eq 6 of two tensors [B, ...], for each sample, [B] on the processor."""
    return (_norms(new - old) / _norms(new).clamp_min(torch.finfo(torch.float32).tiny)).cpu()


def joined(parts: Sequence[Profile]) -> Profile:
    """All measurements of one model as one."""
    total = parts[0]
    for part in parts[1:]:
        total = total.and_(part)
    return total
