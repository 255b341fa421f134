"""Keys and values that a transformer keeps from scale to scale, in memory taken once."""

import torch
from torch import Tensor


class KVCache:
    """Room for `tokens` tokens of every layer; the scales to come are known, so nothing ever grows or is copied over."""

    def __init__(self, layers: int, rows: int, heads: int, tokens: int, like: Tensor, width: int = 64) -> None:
        self._store: Tensor | None = torch.empty(layers, 2, rows, heads, tokens, width, dtype=like.dtype, device=like.device)
        self.tokens, self.length = tokens, 0

    @property
    def nbytes(self) -> int:
        """Bytes held; 0 once freed."""
        return 0 if self._store is None else self._store.nbytes

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [R, heads, l, width] of new tokens; all there are now, [R, heads, length + l, width]."""
        assert self._store is not None, "This cache has been freed."
        end = self.length + k.shape[2]
        assert end <= self.tokens, f"Room for {self.tokens} tokens, {end} came."
        kept_k, kept_v = self._store[layer]
        kept_k[:, :, self.length : end], kept_v[:, :, self.length : end] = k, v
        return kept_k[:, :, :end], kept_v[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count new tokens, once all layers have written them."""
        self.length += tokens

    def free(self) -> None:
        """Give the memory back."""
        self._store = None
