"""Multiply-accumulates of calls really made: counted once for each form of call, then added up."""

import math
from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

T = TypeVar("T")
Context = AbstractContextManager[None]


def form(value: Any, but: Any = None) -> Hashable:
    """What a call's cost depends on: the shapes of the tensors in (nested) arguments, nothing of their values nor of `but`."""
    if isinstance(value, Tensor):
        return value.shape
    if value is None or value is but:
        return None
    if isinstance(value, dict):
        return tuple([(key, form(value[key], but)) for key in sorted(value, key=str)])
    if isinstance(value, (list, tuple)):
        return forms(value, but)
    return type(value).__name__


def forms(values: Iterable[Any], but: Any = None) -> tuple[Hashable, ...]:
    """The `form` of each; most are tensors or nothing."""
    found = []
    for item in values:  # as the adapter's loops, no comprehension: that is a call more at every evaluation
        found.append(None if item is None or item is but else item.shape if isinstance(item, Tensor) else form(item, but))
    return tuple(found)


def is_compiled(module: nn.Module) -> bool:
    """Whether `module` or a part of it is compiled; the operations of such a part cannot be counted from outside."""
    return any(hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None for part in module.modules())


class Counter:
    """Counts a network's MACs while it is entered, by hooks on its linear and convolution layers; `attention` adds its own.

    Hooks look on and change nothing. (A dispatch mode such as PyTorch's FlopCounterMode sees every operation, but some
    compute themselves in another way beneath one, and their last bits differ.)
    """

    def __init__(self, network: nn.Module) -> None:
        self.macs = 0
        self._network = network
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "Counter":
        layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        parts = [part for part in self._network.modules() if isinstance(part, layers)]
        self._hooks = [part.register_forward_hook(self._layer) for part in parts]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _layer(self, module: nn.Module, _: Any, out: Tensor) -> None:
        if getattr(module.forward, "skips", False):  # a cache answers in its place
            return
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.macs += out.numel() * weight[0].numel()

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Count softmax(q k') v of shapes [..., L, D]; with the heads side by side in D the count is the same."""
        self.macs += math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


class Meter:
    """Counts a network's calls once for each form of call, and remembers. A span inside may be skipped: it is taken off."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._totals: dict[Hashable, int] = {}
        self._spans: dict[tuple[Hashable, Hashable], int] = {}
        self._key: Hashable = None
        self._counter: Counter | None = None
        self._skipped: list[Hashable] = []

    def through(self, call: Callable[[], T], key: Hashable, counting: Callable[[], Context] = nullcontext) -> tuple[T, int]:
        """Result of `call` and the MACs it made, where calls of equal `key` cost the same but for the spans skipped.

        The first of them is counted, within the context `counting`, which is to tell of its attentions.
        """
        self._key, self._skipped = key, []
        total = self._totals.get(key)
        if total is not None:
            result = call()
            return result, total - self._left_out(key) if self._skipped else total
        try:
            with counting(), Counter(self._network) as self._counter:
                result = call()
            made = self.so_far
        finally:
            self._counter = None
        if not self._skipped:
            self._totals[key] = made
        return result, made

    def _left_out(self, key: Hashable) -> int:
        return sum([self._spans.get((key, span), 0) for span in self._skipped])

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        """Say that the call under way made an attention, shapes [..., L, D]."""
        if self._counter is not None:
            self._counter.attention(q, k, v)

    def add(self, macs: int) -> None:
        """Say that the call under way made so many in layers that are no part of the network."""
        if self._counter is not None:
            self._counter.macs += macs

    @property
    def counting(self) -> bool:
        """Whether the call under way is being counted."""
        return self._counter is not None

    @property
    def so_far(self) -> int:
        """MACs of the call under way up to here, while it is being counted; otherwise 0."""
        return self._counter.macs if self._counter is not None else 0

    def spans(self, key: Hashable) -> dict[Hashable, int]:
        """MACs of each span that was noted in the counted call of this form."""
        return {span: made for (known, span), made in self._spans.items() if known == key}

    def skip(self, span: Hashable) -> None:
        """Say that the call under way leaves out `span`."""
        self._skipped.append(span)

    def note(self, span: Hashable, macs: int) -> None:
        """Say what `span` took, in a call that is being counted."""
        if self._counter is not None:
            self._spans[self._key, span] = macs
