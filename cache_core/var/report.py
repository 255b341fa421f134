"""What a decoding did: seconds, tokens and bytes of each scale, by the model that made it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..measure import Stopwatch
from .decode import Done


@dataclass(frozen=True, slots=True)
class Entry:
    """One scale. Bytes are those held while it was made: keys and values, and the weights of the models on the device."""

    model: str
    scale: int
    side: int
    tokens: int  # that went through the blocks, of one picture
    seconds: float
    kv_bytes: int
    weight_bytes: int


@dataclass(slots=True)
class Report:
    """All scales of one sampling, and what came after."""

    title: str
    pictures: int
    painting_seconds: float = 0.0  # the codec
    device_peak: int | None = None  # measured, where the device tells
    entries: list[Entry] = field(default_factory=list)
    _open: list[tuple[Entry, Stopwatch]] = field(default_factory=list)

    def add(self, model: str, done: Done, weight_bytes: int) -> None:
        """Note a scale. Its time stays on the device until `settle`, so that nothing waits for it. Its draft is not kept."""
        entry = Entry(model, done.scale, done.side, done.tokens, 0.0, done.kv_bytes, weight_bytes)
        self._open.append((entry, done.watch))

    def settle(self, painting: Stopwatch | None = None) -> "Report":
        """Read the times from the device."""
        self.entries += [replace(entry, seconds=watch.seconds()) for entry, watch in self._open]
        self._open.clear()
        self.painting_seconds = painting.seconds() if painting else 0.0
        return self

    @property
    def seconds(self) -> float:
        """The transformers' time, without the codec's: what the papers time."""
        return sum(entry.seconds for entry in self.entries)

    @property
    def kv_bytes(self) -> int:
        """The most that keys and values took."""
        return max((entry.kv_bytes for entry in self.entries), default=0)

    @property
    def peak_bytes(self) -> int:
        """The most that keys, values and the transformers' weights took together."""
        return max((entry.kv_bytes + entry.weight_bytes for entry in self.entries), default=0)

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        totals = {"seconds": self.seconds, "kv_bytes": self.kv_bytes, "peak_bytes": self.peak_bytes, "device_peak": self.device_peak}
        about = {"title": self.title, "pictures": self.pictures, "painting_seconds": self.painting_seconds}
        return about | totals | {"scales": [asdict(entry) for entry in self.entries]}

    def table(self, baseline: "Report | None" = None) -> str:
        """A head line, the comparison if there is one, and a line for each scale."""
        times = f"{self.pictures} pictures in {self.seconds:.2f} s, and {self.painting_seconds:.2f} s of codec"
        lines = [f"{self.title}: {times}; {self._bytes()}"]
        if baseline is not None and self.seconds and baseline.peak_bytes:
            speed, less = baseline.seconds / self.seconds, 1 - self.peak_bytes / baseline.peak_bytes
            lines.append(f"{baseline.title}: {baseline.seconds:.2f} s; speedup {speed:.2f}x, {less:.0%} less memory")
        lines.append(f"{'scale':>5} {'side':>5} {'tokens':>7} {'ms':>9} {'KV MiB':>8}  model")
        lines += [_line(entry) for entry in self.entries]
        return "\n".join(lines)

    def _bytes(self) -> str:
        device = "" if self.device_peak is None else f", {self.device_peak / 2**20:.1f} MiB of the device in all"
        return f"at most {self.kv_bytes / 2**20:.1f} MiB of keys and values, {self.peak_bytes / 2**20:.1f} MiB with weights{device}"


def _line(entry: Entry) -> str:
    size, kv = f"{entry.side}x{entry.side}", entry.kv_bytes / 2**20
    return f"{entry.scale + 1:>5} {size:>5} {entry.tokens:>7} {1000 * entry.seconds:>9.2f} {kv:>8.1f}  {entry.model}"


def titled(models: Sequence[str], drafted: int | None) -> str:
    """A title for a decoding by one model, of so many scales or all, or by two with so many scales drafted."""
    if len(models) == 1:
        return models[0] if drafted is None else f"{models[0]}, {drafted} scales"
    return f"CoDe, {drafted} scales by {models[0]}, the rest by {models[1]}"
