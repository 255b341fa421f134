"""Scale-shift alignment trained as published: arXiv:2312.03209, section 3.4 and appendix.

The student is the network with its schedule on, unrolled from noise by its own sampler; the teacher is the network without a
cache at the student's own states; the loss is the mean squared difference of their predictions; nothing but the scales and
shifts is trained. Each cached block has one linear layer on the timestep embedding, zero at first. The embedding is that of
the noise level itself (sines and cosines), not the network's own, which differs per family. Gradients stay within a step.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheError
from . import file
from .align import Alignment, apply, tabulated

KIND = "alignment training"
EMBEDDED = 64  # width of the timestep embedding
PERIOD = 10_000.0  # of its slowest wave, as in DiT's and Flux's


def embedding(sigma: float, width: int = EMBEDDED) -> Tensor:
    """Sines and cosines [width] of 1000 sigma at falling frequencies; the last one of each kind turns once in PERIOD."""
    half = width // 2
    angles = 1000.0 * sigma * torch.exp(-math.log(PERIOD) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()])


class Training:
    """The layers of the cached `blocks`, for residuals of width C, their optimiser and the losses so far.

    `layers` [blocks, 2, C, EMBEDDED + 1] hold weight and bias. Saved and loaded whole, so a stopped training goes on.
    """

    def __init__(self, blocks: Sequence[int], width: int, rate: float = 1e-3, device: torch.device | None = None) -> None:
        self.blocks, self.rate, self.losses = tuple(blocks), rate, list[float]()
        self.layers = torch.zeros(len(self.blocks), 2, width, EMBEDDED + 1, device=device, requires_grad=True)
        self._optimiser = torch.optim.Adam([self.layers], lr=rate)

    def align(self, block: int, sigma: float, x: Tensor, held: Tensor) -> Tensor:
        """The aligned residual [B, L, C] of a cached block, as a function of the layers."""
        row = self._row(block, sigma)
        return apply(held, row[0], row[1])

    def _row(self, block: int, sigma: float) -> Tensor:
        """Scale and shift [2, C]."""
        layer = self.layers[self.blocks.index(block)]
        return layer[..., :-1] @ embedding(sigma).to(layer) + layer[..., -1]

    def learn(self, prediction: Tensor, target: Tensor) -> None:
        """One step of the optimiser on the mean squared difference of two predictions [B, ...]. Raises CacheError if it is not finite."""
        loss = (prediction.float() - target.float()).square().mean()
        if not math.isfinite(loss.item()):
            raise CacheError(f"The loss is {loss.item()} at step {len(self.losses)}: train again with a learning rate below {self.rate:g}.")
        self.losses.append(loss.item())
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            self._optimiser.zero_grad()

    def alignment(self, name: str, cells: Sequence[tuple[int, float]], schedule: str, about: Mapping[str, Any]) -> Alignment:
        """The trained scales and shifts at the `cells` (block, noise level) of a schedule, as a table."""
        rows = torch.stack([self._row(block, sigma) for block, sigma in cells])
        return tabulated(name, cells, rows, schedule, {**about, "iterations": len(self.losses)})

    def save(self, path: Path) -> None:
        """Write layers, optimiser and losses to `path`."""
        state = self._optimiser.state_dict()["state"].get(0, {})
        tensors = {"layers": self.layers, "losses": torch.tensor(self.losses)}
        header = {"blocks": self.blocks, "rate": self.rate}
        file.write(path, KIND, tensors | {f"optimiser.{key}": torch.as_tensor(value) for key, value in state.items()}, header)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises CacheError for a file of another schedule or network."""
        tensors, header = file.read(path, KIND)
        if tuple(header["blocks"]) != self.blocks or tensors["layers"].shape != self.layers.shape:
            raise CacheError(
                f"{path.name} holds a training of the blocks {header['blocks']}, layers {list(tensors['layers'].shape)}, and blocks "
                f"{list(self.blocks)}, layers {list(self.layers.shape)} are to be trained. Choose another name to start anew."
            )
        with torch.no_grad():
            self.layers.copy_(tensors["layers"])
        self.losses = tensors["losses"].tolist()
        known = {key.removeprefix("optimiser."): value for key, value in tensors.items() if key.startswith("optimiser.")}
        self._optimiser.load_state_dict(
            {"state": {0: known} if known else {}, "param_groups": self._optimiser.state_dict()["param_groups"]}
        )
