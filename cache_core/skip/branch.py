"""A long skip branch: what a deep block reads of the shallow block that is its mirror image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-6  # of the published norm


class Norm32(nn.LayerNorm):
    """A layer norm that works in float32 and answers in its input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.elementwise_affine
        weight, bias = (value.to(x.device, torch.float32) for value in (self.weight, self.bias))
        return functional.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Branch(nn.Module):
    """Skip-DiT's branch (arXiv:2411.17616, section 3.2): `Linear(Norm(concat[x, skip]))` takes the place of x, both [B, L, D].

    With `added` it is added to x instead: the form in which the authors' code starts the branches of a model that was trained
    without them (stage 1 of the continual training). Its linear layer starts at zero, so that an untrained branch changes
    nothing. No start of the first form can do that, since the norm takes away how large x was.
    """

    def __init__(self, width: int, added: bool = False, layers: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.added = added
        self.norm = Norm32(2 * width, eps=EPS, **factory)
        self.linear = layers.Linear(2 * width, width, **factory)

    @torch.no_grad()
    def start(self) -> None:
        """Initialise: no effect if `added`, otherwise the sum of the normed halves at the size they came in."""
        nn.init.ones_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        if not self.added:
            for half in self.linear.weight.chunk(2, 1):
                half.fill_diagonal_(0.5**0.5)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """The deep block's input [B, L, D] in place of `x`; neither argument is changed."""
        fused: Tensor = self.linear(self.norm(torch.cat([x, skip], -1)))
        return x + fused if self.added else fused


def partner(block: int, total: int) -> int | None:
    """The shallow block whose output a deep one reads, last in first out: block b reads total - 1 - b; None if b is shallow.

    The middle one of an odd number has no partner.
    """
    other = total - 1 - block
    return other if other < block else None


def branches(total: int, width: int, added: bool = False, layers: Any = nn, **factory: Any) -> nn.ModuleList:
    """A branch for each deep one of `total` blocks of `width`, in the order in which the blocks run, started."""
    made = nn.ModuleList(Branch(width, added, layers, **factory) for _ in range(total // 2))
    for branch in made:
        assert isinstance(branch, Branch)
        branch.start()
    return made


def fused(made: nn.ModuleList, block: int, total: int, x: Tensor, outputs: Mapping[int, Tensor]) -> Tensor:
    """The input [B, L, D] of `block`: `x`, or what its branch makes of it and of its partner's output; x if that did not run."""
    other = partner(block, total)
    if other is None or other not in outputs or not len(made):
        return x
    result: Tensor = made[len(made) - 1 - other](x, outputs[other])
    return result
