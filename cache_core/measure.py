"""Distances between features, and the clock. Every device-to-host synchronisation of the package happens here."""

import time

import torch
from torch import Tensor
from torch.linalg import vector_norm

WIDE = (torch.float32, torch.float64)
TINY = torch.finfo(torch.float32).tiny


def scalar(x: Tensor) -> float:
    """The first element of `x` [...] on the host."""
    return float(x.item() if x.numel() == 1 else x.flatten()[0])


def mean_abs(x: Tensor) -> float:
    """Mean of |x| over all elements of `x` [...], accumulated in float32."""
    return float(x.abs().float().mean())


def mean_change(new: Tensor, old: Tensor) -> float:
    """Mean of |new - old| over all elements of two tensors of one shape [...], accumulated in float32."""
    return float((new - old).abs_().float().mean())


def relative_l1(new: Tensor, old: Tensor) -> float:
    """mean|new - old| / mean|old| of two tensors of one shape [...]; inf where `old` is all zero.

    TeaCache (arXiv:2411.19108), eq. 4.
    """
    scale = mean_abs(old)
    return mean_change(new, old) / scale if scale > 0.0 else float("inf")


class Ratio:
    """||part|| / ||whole|| of two tensors [...], each over all its elements, left on the device until it is asked for with `float`."""

    __slots__ = ("_part", "_whole")

    def __init__(self, part: Tensor, whole: Tensor) -> None:
        self._part = vector_norm(part)
        self._whole = vector_norm(whole) if whole.dtype in WIDE else vector_norm(whole, dtype=torch.float32)

    def __float__(self) -> float:
        return float(self._part) / (float(self._whole) + TINY)  # which is nothing beside any size but 0


def wide(x: Tensor) -> Tensor:
    """`x` [...] in at least float32."""
    return x if x.dtype in WIDE else x.float()


class Stopwatch:
    """Seconds between two points of the device's work: events if it is `cuda`, which wait for nothing; the wall clock elsewhere."""

    __slots__ = ("_cuda", "_start", "_stop")

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self._stop: float | torch.cuda.Event
        self._start: float | torch.cuda.Event
        self._stop = self._start = self._mark() if self._cuda else time.perf_counter()

    def stop(self) -> "Stopwatch":
        self._stop = self._mark() if self._cuda else time.perf_counter()
        return self

    def seconds(self) -> float:
        """Elapsed seconds; waits for the device if it has not come to the end yet."""
        if isinstance(self._start, float) or isinstance(self._stop, float):
            assert isinstance(self._start, float)
            assert isinstance(self._stop, float)
            return self._stop - self._start
        self._stop.synchronize()
        return float(self._start.elapsed_time(self._stop)) / 1000.0

    def _mark(self) -> "torch.cuda.Event":
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
