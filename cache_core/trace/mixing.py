"""One step's least squares from rehearsed latents: a weight for all channels of a band, and matrices where channels mix.

A forecast with one weight for all channels cannot turn what it sees in one channel into a correction of another. With a matrix W_j
for each anchor and one for the latent, v_n = sum_j (w_nj + W_nj) v_aj + (u_n + U_n) x_n, it can. The matrices belong to the latent
space that they were fitted in, so they come from rehearsals of the model itself and never from the universal calibration. They are
fitted to what the weights leave, on differences of the anchors that all count alike, by ridge regression towards none. Of several
ridges a band takes the one that helps each half of the trajectories most if it is fitted on the other half, or does not mix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .bands import Level, join, split
from .fit import RIDGE, ridged
from .statistics import Array

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # times the mean square of a regressor, towards no mixing
GAIN = 0.01  # share of what the weights leave that mixing must explain where it was not fitted
MOST = 48  # channels: of more, matrices would take too long


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Products of regressors and goal, per band: `square` [bands, F, F], `right` [bands, F, rows], `own` [bands] of the goal with itself.

    F are the anchors, oldest first, and the latent, each with its rows: a row for each channel, or one of all.
    """

    square: Array
    right: Array
    own: Array

    @classmethod
    def of(cls, parts: Tensor, goal: Tensor, levels: Sequence[Level]) -> "Problem":
        """From anchors and latent `parts` [P, B, C, (F,) H, W] and the `goal` [B, C, (F,) H, W]."""
        rows = goal.shape[1] if goal.shape[1] <= MOST else 1
        features = rearrange(split(parts.float(), levels), "g p b (r c) ... -> g (p r) (b c ...)", r=rows).double()
        wanted = rearrange(split(goal.float(), levels), "g b (r c) ... -> g r (b c ...)", r=rows).double()
        across = features.transpose(1, 2)
        own = wanted.square().sum((1, 2))
        return cls((features @ across).numpy(), (features @ wanted.transpose(1, 2)).numpy(), own.numpy())

    def __add__(self, other: "Problem") -> "Problem":
        return Problem(self.square + other.square, self.right + other.right, self.own + other.own)

    @property
    def rows(self) -> int:
        """Channels that are told apart."""
        return int(self.right.shape[2])

    def weights(self, prior: Array) -> Array:
        """Weights [bands, P] of all channels alike, by ridge regression towards `prior` [P]."""
        return ridged(*self._alike(), prior, RIDGE)

    def left(self, weights: Array) -> "Problem":
        """What `weights` [bands, P] leave of the goal, regressed on differences in place of the anchors."""
        square, right = self._alike()
        own = self.own + np.einsum("gp,gpq,gq->g", weights, square, weights) - 2 * (weights * right).sum(1)
        weighted = self.square.reshape(*self.square.shape[:2], -1, self.rows)
        rest = self.right - np.einsum("gfpr,gp->gfr", weighted, weights)
        steps = np.kron(differences(weights.shape[1]), np.eye(self.rows))
        return Problem(steps @ self.square @ steps.T, steps @ rest, own)

    def solved(self, band: int, ridge: float) -> Array:
        """The ridge solution [F, rows] of one band, towards none, where each anchor's regressors are measured by their mean size."""
        square, count = self.square[band], len(self.square[band])
        sizes = np.sqrt(np.diagonal(square).reshape(-1, self.rows).mean(1) + 1e-300).repeat(self.rows)
        even = square / np.outer(sizes, sizes) + ridge * np.eye(count)
        found: Array = np.linalg.solve(even, self.right[band] / sizes[:, None]) / sizes[:, None]
        return found

    def gained(self, band: int, found: Array) -> float:
        """By how much `found` [F, rows] lowers the squared distance from the goal in one band."""
        return float((2 * found * self.right[band] - found * (self.square[band] @ found)).sum())

    def missed(self, weights: Array, mixing: Array | None = None) -> Array:
        """Squared distance [bands] from the goal of what `weights` [bands, P] and `mixing` [bands, rows, P, rows] make."""
        made = np.einsum("gp,rs->gprs", weights, np.eye(self.rows))
        if mixing is not None:
            made = made + mixing.transpose(0, 2, 3, 1)
        made = made.reshape(len(made), -1, self.rows)
        found: Array = self.own + (made * (self.square @ made - 2 * self.right)).sum((1, 2))
        return found

    def _alike(self) -> tuple[Array, Array]:
        """Square [bands, P, P] and right side [bands, P] where all channels have one weight."""
        bands, rows = len(self.own), self.rows
        square = self.square.reshape(bands, -1, rows, self.square.shape[1] // rows, rows)
        right = self.right.reshape(bands, -1, rows, rows)
        return np.einsum("gprqr->gpq", square), np.einsum("gprr->gp", right)


def mix(halves: Sequence[Problem], weights: Array) -> Array | None:
    """What mixing [bands, rows, P, rows] adds to `weights` [bands, P]; None where it does not pay.

    `halves` are the problems of two halves of the trajectories.
    """
    count, rows = weights.shape[1], halves[0].rows
    first, second = (half.left(weights) for half in halves)
    whole, made = first + second, np.zeros((len(weights), rows, count, rows))
    for band, own in enumerate(whole.own):
        gains = {ridge: min(_gains(first, second, band, ridge)) for ridge in RIDGES}
        best = max(RIDGES, key=lambda ridge: gains[ridge])
        if 2 * gains[best] > GAIN * own:
            found = whole.solved(band, best).reshape(count, rows, rows)  # differences, channel that is seen, channel that is answered
            made[band] = np.einsum("qsr,qp->rps", found, differences(count))
    return made if made.any() else None


def kept(judge: Problem, prior: Array, weights: Array, mixing: Array | None) -> tuple[Array, Array | None]:
    """What stays, band by band, of `weights` [bands, P] and `mixing`: what leads the trajectories of `judge` nearest, else `prior` [P]."""
    plain = np.tile(prior, (len(weights), 1))
    errors = [judge.missed(plain), judge.missed(weights)]
    if mixing is not None:
        errors.append(judge.missed(weights, mixing))
    best = np.stack(errors).argmin(0)
    left = None if mixing is None else mixing * (best == 2)[:, None, None, None]
    return np.where((best > 0)[:, None], weights, plain), left if left is not None and left.any() else None


def differences(count: int) -> Array:
    """The matrix [P, P] that makes backward differences of rising order of anchors, oldest first; the last of the P is the latent."""
    line = list(np.eye(count)[:-1])
    made = [line[-1]]
    while len(line) > 1:
        line = [new - old for old, new in pairwise(line)]
        made.append(line[-1])
    return np.stack([*made, np.eye(count)[-1]])


def table(weights: Array, mixing: Array | None = None) -> Array:
    """The matrix of `answer`, [bands, P] or where channels mix [bands * C, P * C]: each band's rows less those of the one before."""
    whole = weights
    if mixing is not None:
        channels = mixing.shape[1]
        whole = (mixing + np.einsum("gp,ck->gcpk", weights, np.eye(channels))).reshape(len(weights), channels, -1)
    made: Array = np.diff(whole, axis=0, prepend=np.zeros_like(whole[:1]))
    return made.reshape(-1, made.shape[-1])


def answer(parts: Sequence[Tensor], made: Tensor, levels: Sequence[Level]) -> Tensor:
    """What anchors and latent, `parts` of [B, C, (F,) H, W], make by a `table`: each band by its own weights, and mixing, joined."""
    shape = parts[0].shape
    if made.shape[1] == len(parts):  # of all channels alike
        return join((made @ torch.stack(list(parts)).reshape(len(parts), -1)).view(-1, *shape), levels)
    seen = torch.cat(list(parts), 1).flatten(2)
    return join((made @ seen).reshape(shape[0], -1, *shape[1:]).transpose(0, 1), levels)


def _gains(first: Problem, second: Problem, band: int, ridge: float) -> tuple[float, float]:
    """What each half gains in a band by the solution of the other."""
    return second.gained(band, first.solved(band, ridge)), first.gained(band, second.solved(band, ridge))
