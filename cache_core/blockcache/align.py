"""Scale-shift alignment: a cached residual is made to fit the step it stands in for. arXiv:2312.03209, section 3.4.

Where block n answers with its cached residual C at noise level t, the answer becomes C (1 + scale_n(t)) + shift_n(t), per
channel. An alignment is a table of rows [2, C], scale and shift, over blocks and noise levels; between two levels of its
table a row is interpolated. It is `trained` as published (train.py), or `fitted` in closed form (`Sums`, ours).
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheError
from . import file

KIND = "block alignment"
RIDGE = 1e-3  # pull of the fit towards no alignment, times the mean square of the regressors


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Rows of scale and shift for cells (block, noise level). `schedule` is the digest of the schedule that it was made for.

    `cells` are sorted by block and then from noisy to clean; `rows` [cells, 2, C] go with them.
    """

    name: str
    kind: str  # "fitted" or "trained"
    cells: tuple[tuple[int, float], ...]
    rows: Tensor
    schedule: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    def at(self, block: int, sigma: float, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Scale and shift [C] in float32, or None for a block that has no rows. Beyond its first and last level a block keeps them."""
        found = _levels(self).get(block)
        if found is None:
            return None
        start, levels = found
        rows = _on(self, device)
        after = bisect_left(levels, -sigma * (1.0 + 1e-6))
        if after < len(levels) and abs(levels[after] + sigma) <= 1e-6 * abs(sigma):
            row = rows[start + after]
        elif after in (0, len(levels)):
            row = rows[start + min(after, len(levels) - 1)]
        else:
            share = (-sigma - levels[after - 1]) / (levels[after] - levels[after - 1])
            row = torch.lerp(rows[start + after - 1], rows[start + after], share)
        return row[0], row[1]

    def save(self, path: Path) -> None:
        """Write it to `path`, its rows in bfloat16."""
        header = {"name": self.name, "how": self.kind, "cells": self.cells, "schedule": self.schedule, "about": dict(self.about)}
        file.write(path, KIND, {"rows": self.rows.bfloat16()}, header)


def load(path: Path) -> Alignment:
    """Read what `Alignment.save` wrote. Raises CacheError for anything else."""
    tensors, header = file.read(path, KIND)
    cells = tuple((int(block), float(sigma)) for block, sigma in header["cells"])
    return Alignment(header["name"], header["how"], cells, tensors["rows"].float(), header["schedule"], header["about"])


@lru_cache(maxsize=8)
def _levels(alignment: Alignment) -> dict[int, tuple[int, list[float]]]:
    """For each block its first row and its noise levels, negated so that they rise."""
    found: dict[int, tuple[int, list[float]]] = {}
    for row, (block, sigma) in enumerate(alignment.cells):
        found.setdefault(block, (row, []))[1].append(-sigma)
    return found


@lru_cache(maxsize=8)
def _on(alignment: Alignment, device: torch.device) -> Tensor:
    """The rows on a device."""
    return alignment.rows.to(device, torch.float32)


def apply(feature: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Align a feature [B, L, C] by rows [C]: feature * (1 + scale) + shift, in float32 and back."""
    wide = torch.promote_types(feature.dtype, torch.float32)
    return torch.addcmul(shift.to(wide), feature.to(wide), 1.0 + scale.to(wide)).to(feature.dtype)


class Sums:
    """What a cell's least-squares fit needs, per channel and in float64: it grows with every roll-out and is solved at any time.

    A fit shares out what its prompts have in common, and what they only seem to have, being few, would do harm to others. So
    corrections are tried on roll-outs that they were not made from (`check`), and each channel keeps the part that would have
    been best there, from none to all of it.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.count = 0
        self._sums = torch.zeros(4, width, dtype=torch.float64, device=device)  # of c, cc, d, cd
        self._tried = torch.zeros(2, width, dtype=torch.float64, device=device)  # of the corrections times d, and squared

    def add(self, held: Tensor, wanted: Tensor) -> None:
        """Cached residuals `held` and what should have been in their place, both [B, L, C]."""
        c, d = held.float().flatten(0, -2), (wanted - held).float().flatten(0, -2)
        self.count += len(c)
        self._sums += torch.stack([c.sum(0), (c * c).sum(0), d.sum(0), (c * d).sum(0)])

    def check(self, rows: Tensor, held: Tensor, wanted: Tensor) -> None:
        """Hear how well scale and shift `rows` [2, C], made without them, would have done on residuals as in `add`."""
        c, d = held.float().flatten(0, -2), (wanted - held).float().flatten(0, -2)
        made = torch.addcmul(rows[1], c, rows[0])
        self._tried += torch.stack([(made * d).sum(0), made.square().sum(0)])

    def solve(self, ridge: float = RIDGE) -> Tensor:
        """Scale and shift [2, C] in float32: argmin sum |c scale + shift - d|^2 + ridge (sum |c|^2 scale^2 + count shift^2)."""
        c, cc, d, cd = self._sums
        first, last = cc * (1.0 + ridge) + torch.finfo(torch.float32).tiny, self.count * (1.0 + ridge)
        determinant = first * last - c * c
        return torch.stack([(cd * last - c * d) / determinant, (first * d - c * cd) / determinant]).float()

    def trusted(self) -> Tensor:
        """Of `solve` the part [2, C] that did good where it was tried, all of it before any `check`."""
        good, size = self._tried
        return self.solve() * torch.where(size > 0.0, good / size.clamp_min(torch.finfo(torch.float32).tiny), 1.0).clamp(0.0, 1.0).float()


class Rollouts:
    """The closed form, fitted while the student rolls out.

    `targets` are the tokens [B, L, C] that the teacher, the same network without a cache on the student's own state, has after
    each cached block, one for each condition of the call under way in their order. A cell's goal is the residual that leads
    from the student's tokens to them, so it repays what the cells before it lost. The first roll-out goes by the table of its own
    tokens, every other one by the table of those before it.
    """

    def __init__(self) -> None:
        self.targets: dict[int, list[Tensor]] = {}
        self._sums: dict[tuple[int, float], Sums] = {}
        self._table: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}  # of the roll-outs before: all of it, and what is trusted
        self._rollout, self._sigma = -1, 0.0

    def align(self, block: int, sigma: float, x: Tensor, held: Tensor) -> Tensor:
        """The residual [B, L, C] that a cached block with input tokens `x` answers with in this roll-out."""
        if sigma > self._sigma:  # back at a noisier level: another one begins
            self._rollout += 1
            self._table = {}
        self._sigma = sigma
        goal, cell = self.targets[block].pop(0) - x, (block, sigma)
        sums = self._sums.setdefault(cell, Sums(held.shape[-1], held.device))
        if not (self._rollout and sums.count):
            sums.add(held, goal)
            return apply(held, *sums.solve())
        if cell not in self._table:
            self._table[cell] = sums.solve(), sums.trusted()
        whole, rows = self._table[cell]
        sums.check(whole, held, goal)
        sums.add(held, goal)
        return apply(held, *rows)

    def alignment(self, name: str, schedule: str, about: Mapping[str, Any]) -> Alignment:
        """The table of all cells. Raises CacheError if nothing was cached in any roll-out."""
        if not self._sums:
            raise CacheError("The schedule computed every block at every step of this sampling, so there is nothing to align.")
        cells = sorted(self._sums, key=lambda cell: (cell[0], -cell[1]))
        rows = torch.stack([self._sums[cell].trusted() for cell in cells]).cpu()
        return Alignment(name, "fitted", tuple(cells), rows, schedule, dict(about))
