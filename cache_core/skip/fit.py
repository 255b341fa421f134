"""A branch for Skip-Cache in closed form, ours: ridge regression on pairs of evaluations of an uncached sampling."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CacheError
from ..history import History
from ..policies import Never
from ..predictors import Hold, Predictor
from ..recipe import Recipe, Site, Target
from ..types import Observation


@dataclass(slots=True)
class Sums:
    """The normal equations: sums over tokens of d d' and d r', with d what the middle blocks' input changed by, r their residual.

    A branch of the published form, Linear(Norm(concat[kept, entry])), was tried first: the norm takes away how much has changed,
    and its fit did not carry over to other prompts. One that sees the change alone gives nothing where nothing changed.
    """

    gram: Tensor | None = None  # [D, D], float64
    cross: Tensor | None = None  # [D, D], float64
    missing: float = 0.0  # sum of squares of what a held residual lacks
    entry: Tensor | None = field(default=None, repr=False)  # the middle blocks' input [B, L, D] of the evaluation under way

    def add(self, before: Tensor, entry: Tensor, kept: Tensor, fresh: Tensor) -> None:
        """One pair of evaluations: inputs and residuals of the earlier and of the later one, all [B, L, D]."""
        change, lack = ((a.float() - b.to(a).float()).flatten(0, 1) for a, b in ((entry, before), (fresh, kept)))
        gram, cross = (change.T @ change).double().cpu(), (change.T @ lack).double().cpu()
        self.gram = gram if self.gram is None else self.gram.add_(gram)
        self.cross = cross if self.cross is None else self.cross.add_(cross)
        self.missing += float(lack.square().sum())

    def solve(self, ridge: float = 1e-3) -> Tensor:
        """The matrix [D, D] of least squared error, with `ridge` times the mean diagonal against large entries."""
        if self.gram is None or self.cross is None:
            raise CacheError("A branch is fitted on pairs of evaluations, and there was none. Sample 2 steps or more.")
        penalty = ridge * self.gram.diagonal().mean() * torch.eye(len(self.gram), dtype=torch.float64)
        found: Tensor = torch.linalg.solve(self.gram + penalty, self.cross)
        return found.T.float().contiguous()

    def explained(self, matrix: Tensor) -> float:
        """Share of the squared error of a held residual that `matrix` takes away on these pairs, 1 is all."""
        assert self.gram is not None
        assert self.cross is not None
        found = matrix.T.double()
        left = self.missing - 2 * float((found * self.cross).sum()) + float((found * (self.gram @ found)).sum())
        return 1 - left / self.missing if self.missing else 0.0


@dataclass(frozen=True, slots=True)
class Gather(Predictor):
    """Adds every pair of evaluations up to `ages` apart to `into`. Goes by the exam that comes before each record."""

    into: Sums
    ages: int

    @property
    def depth(self) -> int:
        return self.ages

    @property
    def keeps_inputs(self) -> bool:
        return True

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        self.into.entry = x
        return Hold().predict(history, seen, x)

    def watch(self, history: History, seen: Observation, feature: Tensor) -> None:
        entry, self.into.entry = self.into.entry, None
        if entry is None:
            return
        for before, kept in zip(history.probes, history.features, strict=True):
            assert before is not None, "the stream keeps it"
            self.into.add(before, entry, kept, feature)


def gathering(into: Sums, every: int, keep: int) -> Recipe:
    """Computes everything, and gathers what a branch for Skip-Cache with these settings has to mend."""
    return Recipe(
        Never("gathers pairs for a branch"), Gather(into, every - 1), Site.STACK, Target.RESIDUAL, name="Skip Fit", head=keep, tail=keep
    )
