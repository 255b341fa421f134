"""Scale-shift alignment trained as published: arXiv:2312.03209, section 3.4 and appendix.

The student is the network with its schedule on, unrolled from noise by its own sampler; the teacher is the network without a
cache at the student's own states; the loss is the mean squared difference of their predictions; nothing but the scales and
shifts is trained, by one step of Adam for each roll-out. Each cached block has one linear layer on the timestep embedding,
zero at first. The embedding is that of the noise level itself (sines and cosines), not the network's own, which differs per
family. Gradients stay within a step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CacheError
from . import file
from .align import Alignment, apply
from .schedule import BlockSchedule

KIND = "alignment training"
EMBEDDED = 64  # width of the timestep embedding
RATE = 1e-4  # of Adam, whose every step is a roll-out
DECAY = 3  # of the average: half of it comes from the last sixth of the roll-outs
PERIOD = 10_000.0  # of its slowest wave, as in DiT's and Flux's


def embedding(sigma: float, width: int = EMBEDDED) -> Tensor:
    """Sines and cosines [width] of 1000 sigma at falling frequencies; the last one of each kind turns once in PERIOD."""
    half = width // 2
    angles = 1000.0 * sigma * torch.exp(-math.log(PERIOD) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()])


class Training:
    """The layers of the cached `blocks`, their optimiser, and the losses so far; `schedule` is the digest of theirs.

    `model` says in words which model is trained; empty, any model's training may go on.

    `layers` [blocks, 2, C, EMBEDDED + 1] hold weight and bias, and are made when the first residual shows its width C; `average`
    [same] is theirs so far. Saved and loaded whole, so a stopped training goes on, on the device of what it aligns. `rollouts` are
    the finished ones, `seconds` what they took.
    """

    def __init__(self, blocks: Sequence[int], rate: float = RATE, schedule: str = "", model: Mapping[str, str] | None = None) -> None:
        self.blocks, self.rate, self.schedule, self.model = tuple(blocks), rate, schedule, dict(model or {})
        self.losses: list[float] = []  # one for each roll-out
        self._seen: list[float] = []
        self.rollouts, self.seconds = 0, 0.0
        self.layers: Tensor | None = None
        self.average: Tensor | None = None
        self._optimiser: torch.optim.Adam | None = None

    def align(self, block: int, sigma: float, x: Tensor, held: Tensor) -> Tensor:
        """The aligned residual [B, L, C] of a cached block, as a function of the layers."""
        if self.layers is None:
            self._start(torch.zeros(len(self.blocks), 2, held.shape[-1], EMBEDDED + 1, device=held.device))
        assert self.layers is not None
        if self.layers.device != held.device and self.layers.grad is None:  # just loaded
            self._move(held.device)
        row = self._row(self.layers, block, sigma)
        return apply(held, row[0], row[1])

    def learn(self, prediction: Tensor, target: Callable[[], Tensor]) -> None:
        """Add the gradient of the mean squared difference of two predictions [B, ...]; `target` is asked only if a block was held.

        Raises CacheError if the difference is not finite.
        """
        if not prediction.requires_grad:
            return
        loss = (prediction.float() - target().float()).square().mean()
        if not math.isfinite(loss.item()):
            raise CacheError(f"The loss is {loss.item()} in roll-out {self.rollouts}: train anew with a learning rate below {self.rate:g}.")
        self._seen.append(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]

    def finish(self, seconds: float) -> None:
        """End a roll-out, which took so many seconds, with one step of the optimiser."""
        if self._optimiser is not None and self._seen:
            self.losses.append(math.fsum(self._seen) / len(self._seen))
            self._optimiser.step()
            self._average()
        self.drop()
        self.rollouts += 1
        self.seconds += seconds

    def drop(self) -> None:
        """Forget the gradients of a roll-out that did not come to its end."""
        self._seen = []
        if self._optimiser is not None:
            self._optimiser.zero_grad()

    def alignment(self, name: str, schedule: BlockSchedule, about: Mapping[str, Any]) -> Alignment:
        """Scale and shift by the layers at the cached cells of `schedule`, as a table. Raises CacheError before the first roll-out."""
        if self.average is None:
            raise CacheError("Nothing was trained yet. Ask for one iteration at least.")
        cells = schedule.cells
        rows = torch.stack([self._row(self.average, block, sigma) for block, sigma in cells]).cpu()
        return Alignment(name, "trained", cells, rows, schedule.digest, dict(about))

    def save(self, path: Path) -> None:
        """Write layers, optimiser and losses to `path`, if there are any."""
        if self.layers is None or self.average is None or self._optimiser is None:
            return
        tensors = {"layers": self.layers, "average": self.average, "losses": torch.tensor(self.losses, dtype=torch.float64)}
        state = self._optimiser.state_dict()["state"].get(0, {})
        tensors |= {f"optimiser.{key}": torch.as_tensor(value) for key, value in state.items()}
        header = {"blocks": self.blocks, "schedule": self.schedule, "rollouts": self.rollouts, "seconds": self.seconds}
        file.write(path, KIND, tensors, header | {"model": self.model})

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises CacheError for a training of another schedule or another model."""
        tensors, header = file.read(path, KIND)
        if tuple(header["blocks"]) != self.blocks or header["schedule"] != self.schedule:
            raise CacheError(
                f"{path.name} holds the training of another schedule (blocks {header['blocks']}), and this one caches the blocks "
                f"{list(self.blocks)}. Choose another name, or delete that file to start anew."
            )
        theirs = header.get("model", {})  # older files have none
        if other := [key for key in theirs if theirs[key] != self.model.get(key, theirs[key])]:
            raise CacheError(
                f"{path.name} holds the training of another model: it differs in {', '.join(other)}. Choose another name, or delete "
                "that file to start anew."
            )
        self.rollouts, self.seconds, self.losses = header["rollouts"], header["seconds"], tensors["losses"].tolist()
        optimiser, self.average = self._start(tensors["layers"]), tensors.get("average", tensors["layers"])  # older files have none
        known = {key.removeprefix("optimiser."): value for key, value in tensors.items() if key.startswith("optimiser.")}
        optimiser.load_state_dict({"state": {0: known} if known else {}, "param_groups": optimiser.state_dict()["param_groups"]})

    def _start(self, layers: Tensor) -> torch.optim.Adam:
        self.layers = layers.detach().clone().requires_grad_(True)
        self._optimiser = torch.optim.Adam([self.layers], lr=self.rate)
        return self._optimiser

    def _move(self, device: torch.device) -> None:
        """Take layers, average and what the optimiser knows to a device."""
        assert self.layers is not None
        assert self.average is not None
        assert self._optimiser is not None
        known, self.average = self._optimiser.state_dict(), self.average.to(device)
        self._start(self.layers.to(device)).load_state_dict(known)

    def _average(self) -> None:
        """Take the layers as they are now into the average."""
        assert self.layers is not None
        now, share = self.layers.detach(), (DECAY + 1) / (DECAY + len(self.losses))
        self.average = now.clone() if self.average is None else self.average.lerp_(now, share)

    def _row(self, layers: Tensor, block: int, sigma: float) -> Tensor:
        """Scale and shift [2, C]."""
        layer = layers[self.blocks.index(block)]
        row: Tensor = layer[..., :-1] @ embedding(sigma).to(layer) + layer[..., -1]
        return row
