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


def counter() -> FlopCounterMode:
    """Counts the operations of matrix products, convolutions and attention, two a MAC, while it is entered."""
    return FlopCounterMode(display=False, custom_mapping=KERNELS)


class Meter:
    """Counts a network's calls once for each form of call, and remembers. A span inside may be skipped: it is taken off."""

    def __init__(self) -> None:
        self._totals: dict[Hashable, int] = {}
        self._spans: dict[tuple[Hashable, Hashable], int] = {}
        self._key: Hashable = None
        self._counter: FlopCounterMode | None = None
        self._skipped: list[Hashable] = []

    def through(self, call: Callable[[], T], key: Hashable) -> tuple[T, int]:
        """Result of `call` and the MACs it made, where calls of equal `key` cost the same but for the spans skipped."""
        self._key, self._skipped = key, []
        if key in self._totals:
            result = call()
            return result, self._totals[key] - sum(self._spans.get((key, span), 0) for span in self._skipped)
        try:
            with counter() as self._counter:
                result = call()
            made = self.so_far
        finally:
            self._counter = None
        if not self._skipped:
            self._totals[key] = made
        return result, made

    @property
    def so_far(self) -> int:
        """MACs of the call under way up to here, while it is being counted; otherwise 0."""
        return self._counter.get_total_flops() // 2 if self._counter is not None else 0

    def skip(self, span: Hashable) -> None:
        """Say that the call under way leaves out `span`."""
        self._skipped.append(span)

    def note(self, span: Hashable, macs: int) -> None:
        """Say what `span` took, in a call that is being counted."""
        if self._counter is not None:
            self._spans[self._key, span] = macs
