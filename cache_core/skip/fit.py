"""A branch in closed form: ridge regression on pairs of evaluations of an uncached sampling."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CacheError
from ..history import History
from ..policies import Never
from ..predictors import Hold, Predictor
from ..recipe import Recipe, Site, Target
from ..types import Observation
from .branch import Branch

Watch = Callable[[], None]


@dataclass(slots=True)
class Sums:
    """The normal equations of a branch: sums over tokens of z z' and z r', with z what the branch's linear layer sees, and 1.

    `error` and `size` are sums of squares: of what the branch is to add, and of the feature itself.
    """

    gram: Tensor | None = None  # [2 D + 1, 2 D + 1], float64
    cross: Tensor | None = None  # [2 D + 1, D], float64
    error: float = 0.0
    size: float = 0.0
    entry: Tensor | None = field(default=None, repr=False)  # the span's input [B, L, D] of the evaluation under way

    def add(self, kept: Tensor, entry: Tensor, fresh: Tensor) -> None:
        """One pair: the feature that would have been `kept`, the fresh `entry`, the feature wanted, all [B, L, D]."""
        joined = torch.cat([kept, entry.to(kept)], -1).float()
        z = torch.nn.functional.layer_norm(joined, joined.shape[-1:], eps=1e-6).flatten(0, 1)
        z = torch.cat([z, z.new_ones(len(z), 1)], 1)
        missing = (fresh.float() - kept.float()).flatten(0, 1)
        gram, cross = (z.T @ z).double().cpu(), (z.T @ missing).double().cpu()
        self.gram = gram if self.gram is None else self.gram.add_(gram)
        self.cross = cross if self.cross is None else self.cross.add_(cross)
        self.error += float(missing.square().sum())
        self.size += float(fresh.float().square().sum())

    def solve(self, ridge: float = 1e-4) -> Branch:
        """The branch of least squared error, with `ridge` times the mean diagonal against large weights."""
        if self.gram is None or self.cross is None:
            raise CacheError("A branch is fitted on pairs of evaluations, and there was none. Sample 2 steps or more.")
        penalty = ridge * self.gram.diagonal().mean() * torch.eye(len(self.gram), dtype=torch.float64)
        found = torch.linalg.solve(self.gram + penalty, self.cross).float()
        branch = Branch(found.shape[1], added=True)
        branch.start()
        with torch.no_grad():
            branch.linear.weight.copy_(found[:-1].T)
            branch.linear.bias.copy_(found[-1])
        return branch.requires_grad_(False).eval()

    def explained(self, branch: Branch) -> float:
        """Share of the squared error of plain reuse that `branch` takes away on these pairs, 1 is all."""
        assert self.gram is not None
        assert self.cross is not None
        found = torch.cat([branch.linear.weight.T, branch.linear.bias[None]]).double()
        left = self.error - 2 * float((found * self.cross).sum()) + float((found * (self.gram @ found)).sum())
        return 1 - left / self.error if self.error else 0.0


@dataclass(frozen=True, slots=True)
class Gather(Predictor):
    """Adds every pair of evaluations up to `ages` apart to `into`. Goes by the exam that comes before each record."""

    into: Sums
    ages: int

    @property
    def depth(self) -> int:
        return self.ages

    def predict(self, history: History, seen: Observation, x: Tensor) -> Tensor:
        self.into.entry = x
        return Hold().predict(history, seen, x)

    def watch(self, history: History, seen: Observation, feature: Tensor) -> None:
        entry, self.into.entry = self.into.entry, None
        if entry is None:
            return
        for kept in history.features:
            self.into.add(kept, entry, feature)


def gathering(into: Sums, every: int, keep: int) -> Recipe:
    """Computes everything, and gathers what a branch for Skip-Cache with these settings has to mend."""
    return Recipe(
        Never("gathers pairs for a branch"), Gather(into, every - 1), Site.STACK, Target.RESIDUAL, name="Skip Fit", head=keep, tail=keep
    )
