"""Uncached trajectories on disk, in half precision: a calibration needs them again, and goes on where it was cancelled."""

import os
import shutil
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CacheError
from .bands import Level
from .collect import Trajectory
from .statistics import Statistics


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """One trajectory: starting latent and velocities, each [B, C, (F,) H, W] in float16, and its statistics in full precision."""

    start: Tensor
    velocities: Tensor  # [N, B, C, (F,) H, W]
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of numbered trajectories made under one `key`; those of another key are made anew.

    A trajectory takes 2 bytes for each number of its steps + 1 latents: 27 MB for a Flux picture of 1024 x 1024 at 50 steps,
    214 MB for 81 frames of Wan at 480p.
    """

    folder: Path
    key: str

    def put(self, number: int, trajectory: Trajectory, levels: tuple[Level, ...], end: float) -> Kept:
        """Keep one, whole or not at all."""
        statistics = trajectory.statistics(levels, end)
        assert trajectory.start is not None, "it has statistics"
        kept = Kept(trajectory.start.half(), torch.stack(trajectory.velocities).half(), statistics)
        tensors = {
            "start": kept.start,
            "velocities": kept.velocities,
            "gram": torch.from_numpy(statistics.gram),
            "sigmas": torch.tensor([*statistics.sigmas, end], dtype=torch.float64),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self._path(number).with_suffix(".part")
        save_file(tensors, part, {"key": self.key})
        os.replace(part, self._path(number))
        return kept

    def filled(self) -> int:
        """How many trajectories of its key there are, numbered from 0 without a gap."""
        return next(number for number in count() if not self._has(number))

    def _has(self, number: int) -> bool:
        try:
            with safe_open(self._path(number), "pt") as file:
                return self._ours(file)
        except (FileNotFoundError, SafetensorError):
            return False

    def _ours(self, file: Any) -> bool:
        return bool((file.metadata() or {}).get("key") == self.key)

    def get(self, number: int, levels: tuple[Level, ...]) -> Kept | None:
        """The trajectory of that number, or None if it is not there, damaged or of another key."""
        try:
            with safe_open(self._path(number), "pt") as file:
                if not self._ours(file):
                    return None
                *sigmas, end = file.get_tensor("sigmas").tolist()
                start, gram = file.get_tensor("start"), file.get_tensor("gram").numpy()
                return Kept(start, file.get_tensor("velocities"), Statistics(tuple(sigmas), gram, levels, end, len(start)))
        except (FileNotFoundError, SafetensorError):
            return None

    def start(self, number: int) -> Tensor:
        """A trajectory's starting latent [B, C, (F,) H, W]. Raises CacheError if it is gone or damaged."""
        return self._read(number, "start", None)

    def velocity(self, number: int, step: int) -> Tensor:
        """Its velocity [B, C, (F,) H, W] at a step alone. Raises CacheError if it is gone or damaged."""
        return self._read(number, "velocities", step)

    def _read(self, number: int, name: str, step: int | None) -> Tensor:
        try:
            with safe_open(self._path(number), "pt") as file:
                found: Tensor = file.get_tensor(name) if step is None else file.get_slice(name)[step]
                return found
        except (FileNotFoundError, SafetensorError) as error:
            raise CacheError(f"Trajectory {number} in {self.folder.name} is gone or damaged. Calibrate again.") from error

    def clear(self) -> None:
        """Throw all away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"
