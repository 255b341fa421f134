"""Continual training with skip branches (arXiv:2411.17616, section 4.1): first the branches alone, then the rest with them."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import CacheError

CLIP = 0.1  # largest norm of the gradient, as in the authors' code
KIND = "skip training"
STEP = "step"  # of the optimiser's state the number that stays on the processor


@dataclass(slots=True)
class Training:
    """What is trained, by name, with its optimiser (AdamW without decay, as published) and the losses so far.

    `about` tells the model that it is trained on: what was saved of another one is not gone on from.
    """

    parts: Mapping[str, nn.Module]
    rate: float = 1e-4
    about: Mapping[str, str] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        for part in self.parts.values():
            part.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self._parameters(), lr=self.rate, weight_decay=0.0)

    def _parameters(self) -> list[nn.Parameter]:
        return [value for part in self.parts.values() for value in part.parameters()]

    def learn(self, loss: Tensor) -> None:
        """One step on `loss` []. Raises CacheError if it is not finite: nothing is changed by it then."""
        value = loss.item()
        if not math.isfinite(value):
            raise CacheError(f"The loss is {value} at step {len(self.losses)}. Train with a learning rate below {self.rate:g}.")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters(), CLIP)
        self._follow()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.losses.append(value)

    def _follow(self) -> None:
        """Bring the optimiser's state to its parameters: a host may have moved them since it was made or loaded."""
        for parameter, state in self.optimiser.state.items():
            moved = {key: value.to(parameter.device) for key, value in state.items() if key != STEP}
            state.update(moved)

    def finish(self) -> None:
        """Back to what is only used."""
        for part in self.parts.values():
            part.requires_grad_(False)

    def save(self, path: Path) -> None:
        """Write everything that a later call goes on from, whole or not at all."""
        tensors = {f"{name}:{key}": value.detach().cpu() for name, part in self.parts.items() for key, value in part.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser:{index}:{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
        tensors["losses:"] = torch.tensor(self.losses, dtype=torch.float64)
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {"encore": KIND, "parts": json.dumps([*self.parts]), "about": json.dumps(dict(self.about))}
        part_file = path.with_suffix(".part")
        save_file({key: value.contiguous() for key, value in tensors.items()}, part_file, header)
        os.replace(part_file, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises CacheError for a training of other parts, of another model or of other shapes."""
        with safe_open(path, "pt") as file:
            tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        for what, found, expected in self._compared(tensors, header):
            if found != expected:
                raise CacheError(
                    f"{path.name} holds a training of something else; {what}: found {found}, expected {expected}. "
                    f"Choose another name, or delete {path.name} to start anew."
                )
        for name, part in self.parts.items():
            part.load_state_dict({key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")})
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser:"):
                _, index, field_name = key.split(":")
                state.setdefault(int(index), {})[field_name] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.losses = tensors["losses:"].tolist()

    def _compared(self, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> Iterator[tuple[str, Any, Any]]:
        """What must be the same of a saved training and of this one: its name, as found and as expected. Older files tell no model."""
        yield "the kind of file", header.get("encore"), KIND
        yield "what is trained", json.loads(header["parts"]), [*self.parts]
        told = json.loads(header.get("about", "{}"))
        for key, value in self.about.items():
            yield f"the model's {key}", told.get(key, value), value
        ours = {f"{name}:{key}": list(value.shape) for name, part in self.parts.items() for key, value in part.state_dict().items()}
        theirs = {key: list(value.shape) for key, value in tensors.items() if key.split(":")[0] in self.parts}
        for key in sorted(ours.keys() | theirs.keys()):
            yield f"the shape of {key}", theirs.get(key, "none"), ours.get(key, "none")
