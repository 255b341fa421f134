"""Files of branches alone: those of a model that was trained without them, or the one that was fitted in closed form."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import CacheError
from .branch import Branch
from .checkpoint import ours, published, read
from .lora import LoRA, exported

TRAINED, FITTED, LORA = "branches", "fitted branch", "skip lora"  # what a file says that it holds


def save(made: nn.ModuleList, path: Path, about: Mapping[str, Any]) -> None:
    """Write branches, all of one form, with what is known `about` them; whole or not at all."""
    weights = {f"skips.{key}": value.detach().cpu().contiguous() for key, value in made.state_dict().items()}
    first = made[0]
    assert isinstance(first, Branch)
    header = {"encore": TRAINED, "added": str(int(first.added)), "about": json.dumps(about)}
    write(published(weights), path, header)


def save_fitted(matrix: Tensor, path: Path, about: Mapping[str, Any]) -> None:
    """Write the matrix of a branch that was fitted in closed form."""
    write({"matrix": matrix.cpu().contiguous()}, path, {"encore": FITTED, "about": json.dumps(about)})


def save_lora(made: Mapping[str, LoRA], path: Path, about: Mapping[str, Any]) -> None:
    """Write the LoRAs of a second stage as hosts load them, under the file's own name and with what is known `about` them."""
    write(exported(dict(made)), path, {"encore": LORA, "name": path.stem, "about": json.dumps(about)})


def claim_lora(path: Path) -> None:
    """Raise CacheError where `save_lora` would replace a file that it did not write itself under this name."""
    if not path.exists():
        return
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
    except SafetensorError:
        header = {}
    if (header.get("encore"), header.get("name")) != (LORA, path.stem):
        raise CacheError(
            f"The LoRA would replace {path.parent.name}/{path.name}, which no training of this name wrote. Choose another name, or move "
            "that file away."
        )


def load_fitted(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """The matrix [D, D] of a fitted branch, and what is known about it. Raises CacheError for a file of another kind."""
    weights, header = _read(path, FITTED)
    return weights["matrix"].float(), json.loads(header.get("about", "{}"))


def load(path: Path, layers: Any = nn) -> tuple[nn.ModuleList, dict[str, Any]]:
    """Branches and what is known about them. Raises CacheError for a file of another kind."""
    weights, header = _read(path, TRAINED)
    weights = {key.removeprefix("skips."): value.float() for key, value in ours(weights).items()}
    count = 1 + max(int(key.split(".")[0]) for key in weights)
    width = len(weights["0.linear.weight"])
    made = nn.ModuleList(Branch(width, header.get("added") == "1", layers) for _ in range(count))
    made.load_state_dict(weights)
    return made.requires_grad_(False).eval(), json.loads(header.get("about", "{}"))


def _read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    weights, header = read(path)
    if header.get("encore") != kind:
        found = header.get("encore", "no word of it")
        raise CacheError(f"{path.name} was to hold a {kind}, and its header says {found}. Take a file that Encore wrote for this.")
    return weights, header


def write(weights: Mapping[str, Tensor], path: Path, header: dict[str, str]) -> None:
    """Write tensors, whole or not at all; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(dict(weights), part, header)
    os.replace(part, path)
