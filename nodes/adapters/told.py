"""Something short to compare by, of whatever the host hands along: what is alike gives the same, across sessions and devices."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

FEW = 8  # numbers of a tensor that are looked at where all would be too many


def digest(data: bytes) -> str:
    """16 hexadecimal digits that tell these bytes from others."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def told(value: Any, digits: Callable[[Tensor], str]) -> Any:
    """`value` as something to hash: tensors by shape and `digits`, weight adapters by their weights, other objects by their kind."""
    if isinstance(value, Tensor):
        return [*value.shape, digits(value.detach())]
    if isinstance(value, Mapping):
        return sorted(([str(key), told(inner, digits)] for key, inner in value.items()), key=lambda pair: str(pair[0]))
    if isinstance(value, list | tuple):
        return [told(inner, digits) for inner in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return [type(value).__name__, told(getattr(value, "weights", None), digits)]


def numbers(value: Tensor) -> str:
    """Of all numbers of a tensor."""
    return digest(value.float().cpu().contiguous().numpy().tobytes())


def few(value: Tensor) -> str:
    """FEW numbers of a tensor along its diagonal, so that nothing large is copied."""
    if not value.numel():
        return ""
    places = tuple(torch.linspace(0, length - 1, FEW).long().to(value.device) for length in value.shape)
    return " ".join(f"{number:.4g}" for number in value[places].flatten().float().tolist())
