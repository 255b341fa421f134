"""Continual training with skip branches (arXiv:2411.17616, section 4.1): first the branches alone, then the rest with them."""

import json
import math
import os
from collections.abc import Mapping
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


@dataclass(slots=True)
class Training:
    """What is trained, by name, with its optimiser (AdamW without decay, as published) and the losses so far."""

    parts: Mapping[str, nn.Module]
    rate: float = 1e-4
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
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.losses.append(value)

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
        part_file, header = path.with_suffix(".part"), {"encore": KIND, "parts": json.dumps([*self.parts])}
        save_file({key: value.contiguous() for key, value in tensors.items()}, part_file, header)
        os.replace(part_file, path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote. Raises CacheError for a training of other parts."""
        with safe_open(path, "pt") as file:
            tensors, header = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        if header.get("encore") != KIND or json.loads(header["parts"]) != [*self.parts]:
            raise CacheError(f"{path.name} holds a training of something else. Choose another name, or delete that file to start anew.")
        for name, part in self.parts.items():
            part.load_state_dict({key.removeprefix(f"{name}:"): value for key, value in tensors.items() if key.startswith(f"{name}:")})
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser:"):
                _, index, field_name = key.split(":")
                state.setdefault(int(index), {})[field_name] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.losses = tensors["losses:"].tolist()
