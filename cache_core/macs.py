"""Multiply-accumulates of calls really made: counted by PyTorch once for each form of call, then added up."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

T = TypeVar("T")


def form(value: Any) -> Hashable:
    """What a call's cost depends on: shapes and dtypes of the tensors in (nested) arguments, nothing of their values."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, Mapping):
        return tuple((key, form(value[key])) for key in sorted(value, key=str))
    if isinstance(value, (list, tuple)):
        return tuple(form(item) for item in value)
    return type(value).__name__


def is_compiled(module: nn.Module) -> bool:
    """Whether `module` or a part of it is compiled; the operations of such a part cannot be counted from outside."""
    return any(hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None for part in module.modules())


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations, two a multiply-accumulate, of softmax(q k') v for shapes [B, H, L, D]."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# PyTorch's counter knows the attention kernels of CUDA only.
KERNELS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def count(call: Callable[[], T]) -> tuple[T, int]:
    """Result of `call` and the MACs of its matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        result = call()
    return result, counter.get_total_flops() // 2


class Meter:
    """Counts once for each form of call, and remembers; one per network."""

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}

    def through(self, call: Callable[[], T], key: Hashable) -> tuple[T, int]:
        """Result of `call` and its MACs, where calls of equal `key` cost the same."""
        if key in self._known:
            return call(), self._known[key]
        result, self._known[key] = count(call)
        return result, self._known[key]
