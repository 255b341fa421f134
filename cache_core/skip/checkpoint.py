"""Key layouts of the published Skip-DiT files (huggingface.co/GuanjieChen/Skip-DiT), and how they are read."""

import argparse
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CacheError
from .dit import Shape

_NAMES = (  # beginnings or, with a full stop before them, inner parts of keys: in the files, in our networks; # is a number
    ("skip_norms.#.", "skips.#.norm."),
    ("skip_linears.#.linear.", "skips.#.linear."),
    ("adaln_single.emb.timestep_embedder.linear_1.", "adaln_single.emb.mlp.0."),
    ("adaln_single.emb.timestep_embedder.linear_2.", "adaln_single.emb.mlp.2."),
    ("caption_projection.linear_#.", "caption_projection.fc#."),
    (".ff.net.0.proj.", ".ff.fc1."),
    (".ff.net.2.", ".ff.fc2."),
    (".to_out.0.", ".to_out."),
)
_UNREAD = ("caption_projection.y_embedding", "pos_embed.pos_embed", "temp_pos_embed")  # for training, or made anew at each size
HEAD = 72  # width of a head of DiT-XL/2, Latte-XL/2 and LatteT2V, where the file does not say how many heads there are
FRAMES, SIDE = 16, 32  # LatteT2V's frames and patches along a side in training, of which its file says nothing


Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(names: Sequence[tuple[str, str]]) -> Rules:
    """What turns the first name of each pair into the second."""
    patterns = [re.escape(old).replace(r"\#", r"(\d+)") for old, _ in names]
    starts = ["" if old.startswith(".") else "^" for old, _ in names]
    return tuple((re.compile(start + old), new.replace("#", r"\1")) for start, old, (_, new) in zip(starts, patterns, names, strict=True))


_OURS, _THEIRS = _rules(_NAMES), _rules([(new, old) for old, new in _NAMES])


def published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of our networks under the keys of the published files."""
    return {_renamed(key, _THEIRS): value for key, value in weights.items()}


def ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a published file under the keys of our networks, without what these do not have."""
    return {_renamed(key, _OURS): value for key, value in weights.items() if key not in _UNREAD}


def _renamed(key: str, rules: Rules) -> str:
    for pattern, new in rules:
        key = pattern.sub(new, key)
    return key


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights to sample with in a .safetensors or .pt file, and what the former says of itself.

    Of a training's state the average is taken and the optimiser's is left. A .pt is read without running code from it, and from
    disk as needed. Raises CacheError where there are no weights by name.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        with torch.serialization.safe_globals([argparse.Namespace]):  # a training's settings, beside the weights of DiT-XL-2-skip.pt
            found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        words = str(error).split("\n")[0][:160]
        raise CacheError(f"{path.name} is no whole file of weights ({words}). Fetch it again, or take another.") from error
    return _weights(found, path.name), {}


def _weights(found: Any, name: str) -> dict[str, Tensor]:
    """The weights by name in what a .pt file holds."""
    for part in ("ema", "model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(part), dict):
            found = found[part]
            break
    items = found.items() if isinstance(found, dict) else ()
    weights = {str(key).removeprefix("module."): value for key, value in items if isinstance(value, Tensor)}
    if not weights:
        words = ", ".join(map(str, found))[:120] if isinstance(found, dict) else type(found).__name__
        raise CacheError(f"{name} holds {words}, and weights by name were expected. Take a file of model weights.")
    return weights


def shape_of(weights: Mapping[str, Tensor], about: Mapping[str, str]) -> Shape:
    """The sizes of the DiT or Latte that `weights`, in the published key layout, belong to. Raises CacheError for anything else."""
    if any(key.startswith("mlp_t5.") for key in weights):
        raise CacheError("These are weights of Hunyuan-DiT, which ComfyUI has itself: load them with its own Load Checkpoint node.")
    if any(key.startswith("temporal_transformer_blocks.") for key in weights):
        return _text_shape(weights, about)
    needed = ("x_embedder.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "final_layer.linear.weight", "pos_embed")
    _need(weights, needed, "no DiT and no Latte")
    width, channels, patch, _ = weights["x_embedder.proj.weight"].shape
    table = weights.get("y_embedder.embedding_table.weight")
    return Shape(
        depth=_depth(weights, "blocks."),
        width=width,
        heads=_heads(width, about),
        channels=channels,
        out=weights["final_layer.linear.weight"].shape[0] // patch**2,
        classes=0 if table is None else len(table),
        side=round(weights["pos_embed"].shape[1] ** 0.5),
        inner=weights["blocks.0.mlp.fc1.weight"].shape[0],
        patch=patch,
        skips="skip_linears.0.linear.weight" in weights,
        frames=weights["temp_embed"].shape[1] if "temp_embed" in weights else 0,
    )


def _text_shape(weights: Mapping[str, Tensor], about: Mapping[str, str]) -> Shape:
    """The sizes of a LatteT2V."""
    inner = "transformer_blocks.0.ff.net.0.proj.weight"
    needed = ("pos_embed.proj.weight", "caption_projection.linear_1.weight", "transformer_blocks.0.attn2.to_k.weight", inner)
    _need(weights, (*needed, "adaln_single.linear.weight", "scale_shift_table", "proj_out.weight"), "no LatteT2V")
    width, channels, patch, _ = weights["pos_embed.proj.weight"].shape
    places = weights.get("pos_embed.pos_embed")
    return Shape(
        depth=_depth(weights, "transformer_blocks."),
        width=width,
        heads=_heads(width, about),
        channels=channels,
        out=weights["proj_out.weight"].shape[0] // patch**2,
        classes=0,
        side=SIDE if places is None else round(places.shape[1] ** 0.5),
        inner=weights[inner].shape[0],
        patch=patch,
        skips="skip_linears.0.linear.weight" in weights,
        frames=FRAMES,
        text=weights["caption_projection.linear_1.weight"].shape[1],
    )


def _need(weights: Mapping[str, Tensor], needed: Sequence[str], words: str) -> None:
    missing = [key for key in needed if key not in weights]
    if missing:
        raise CacheError(
            f"These weights have no {', '.join(missing)}, so they are {words}. Take DiT-XL-2-skip.pt, Latte-skip.pt, a class-to-video "
            "file of Skip-DiT, or a model that Encore trained."
        )


def _depth(weights: Mapping[str, Tensor], blocks: str) -> int:
    return 1 + max(int(key.removeprefix(blocks).split(".")[0]) for key in weights if key.startswith(blocks))


def _heads(width: int, about: Mapping[str, str]) -> int:
    return int(about["heads"]) if "heads" in about else max(width // HEAD, 1)
