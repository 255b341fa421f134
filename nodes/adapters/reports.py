"""Ledgers of the last samplings, found again by the latent that the sampling returned."""

import hashlib
import threading
from collections import OrderedDict, deque
from typing import Any

import torch
from torch import Tensor

from ...cache_core import Ledger

KEPT = 64  # latents
EACH = 4  # ledgers of one latent: where nothing was reused, two branches return the same latent

_lock = threading.Lock()
_ledgers: OrderedDict[str, deque[Ledger]] = OrderedDict()


def digest(latent: Any) -> str:
    """A fingerprint of a latent's shape and values, the same on every device."""
    tensors = latent.unbind() if getattr(latent, "is_nested", False) else [latent]
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        plain: Tensor = tensor.detach().to("cpu", torch.float32).contiguous()
        found.update(repr(tuple(plain.shape)).encode())
        found.update(plain.numpy().tobytes())
    return found.hexdigest()


def publish(latent: Any, ledger: Ledger) -> None:
    """Keep the ledger of the sampling that returned `latent`; the oldest beyond KEPT are let go of."""
    key = digest(latent)
    with _lock:
        _ledgers.setdefault(key, deque(maxlen=EACH)).appendleft(ledger)
        _ledgers.move_to_end(key)
        while len(_ledgers) > KEPT:
            _ledgers.popitem(last=False)


def find(latent: Any) -> list[Ledger]:
    """The ledgers of the samplings that returned exactly this latent, the newest first."""
    with _lock:
        return list(_ledgers.get(digest(latent), ()))
