"""Key layouts of the published Skip-DiT files (huggingface.co/GuanjieChen/Skip-DiT), and how they are read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import CacheError
from .dit import Shape

Rules = tuple[tuple[re.Pattern[str], str], ...]
_OURS: Rules = (
    (re.compile(r"^skip_norms\.(\d+)\."), r"skips.\1.norm."),
    (re.compile(r"^skip_linears\.(\d+)\.linear\."), r"skips.\1.linear."),
)
_THEIRS: Rules = (
    (re.compile(r"^skips\.(\d+)\.norm\."), r"skip_norms.\1."),
    (re.compile(r"^skips\.(\d+)\.linear\."), r"skip_linears.\1.linear."),
)
HEAD = 72  # width of a head of DiT-XL/2 and Latte-XL/2, where the file does not say how many heads there are


def published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our networks under the keys of the published files."""
    return {_renamed(key, _THEIRS): value for key, value in weights.items()}


def ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a published file under the keys of our networks."""
    return {_renamed(key, _OURS): value for key, value in weights.items()}


def _renamed(key: str, rules: Rules) -> str:
    for pattern, new in rules:
        key = pattern.sub(new, key)
    return key


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights to sample with in a .safetensors or .pt file, and what the former says of itself.

    Of a training's state the average is taken and the optimiser's is left. A .pt is read without running code from it, and from
    disk as needed. Raises CacheError where there are no weights by name.
    """
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    for part in ("ema", "model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(part), dict):
            found = found[part]
            break
    items = found.items() if isinstance(found, dict) else ()
    weights = {str(key).removeprefix("module."): value for key, value in items if isinstance(value, Tensor)}
    if not weights:
        words = ", ".join(map(str, found))[:120] if isinstance(found, dict) else type(found).__name__
        raise CacheError(f"{path.name} holds {words}, and weights by name were expected. Take a file of model weights.")
    return weights, {}


def shape_of(weights: Mapping[str, Tensor], about: Mapping[str, str]) -> Shape:
    """The sizes of the DiT or Latte that `weights`, in the published key layout, belong to. Raises CacheError for anything else."""
    if any(key.startswith("mlp_t5.") for key in weights):
        raise CacheError("These are weights of Hunyuan-DiT, which ComfyUI has itself: load them with its own Load Checkpoint node.")
    needed = ("x_embedder.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight", "pos_embed")
    missing = [key for key in needed if key not in weights]
    if missing:
        raise CacheError(
            f"These weights have no {', '.join(missing)}, so they are no DiT and no Latte. Take DiT-XL-2-skip.pt, a class-to-video "
            "file of Skip-DiT, or a model that Encore trained."
        )
    width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    table = weights.get("y_embedder.embedding_table.weight")
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    return Shape(
        depth=depth,
        width=width,
        heads=int(about["heads"]) if "heads" in about else max(width // HEAD, 1),
        channels=channels,
        out=weights["final_layer.linear.weight"].shape[0] // patch**2,
        classes=0 if table is None else len(table),
        side=round(weights["pos_embed"].shape[1] ** 0.5),
        inner=weights["blocks.0.mlp.fc1.weight"].shape[0],
        patch=patch,
        skips="skip_linears.0.linear.weight" in weights,
        frames=weights["temp_embed"].shape[1] if "temp_embed" in weights else 0,
    )
