"""What the cache did, evaluation by evaluation, so that a speed-up is shown and not claimed."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median
from typing import Any

from .measure import Ratio, Stopwatch
from .types import Step, Verdict

LARGE = 2**30  # bytes from which on the report speaks of what was kept


@dataclass(slots=True)
class Entry:
    """One evaluation. `error` is that of the forecast it did not need, `macs` those really made, `share` that of the parts computed."""

    evaluation: int
    step: int
    sigma: float
    computed: bool
    reason: str
    score: float | None
    macs: int
    seconds: float = 0.0
    error: float | None = None
    share: float = 1.0


@dataclass(slots=True)
class Ledger:
    """All evaluations of one sampling, and what they cost together."""

    recipe: str
    source: str
    site: str
    steps: int
    sampler: str = ""
    seconds: float = 0.0  # the denoising loop
    counted: bool = True  # whether the MACs could be counted
    peak_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    places: dict[Hashable, int] = field(default_factory=dict)  # MACs of each part that is cached, in the first evaluation
    _open: list[tuple[Entry, Stopwatch, Sequence[Ratio]]] = field(default_factory=list)

    def add(self, step: Step, verdict: Verdict, macs: int, watch: Stopwatch, errors: Sequence[Ratio], share: float) -> None:
        """Note one evaluation. Times and errors stay on the device until `settle`, so that nothing waits for them."""
        entry = Entry(step.evaluation, step.index, step.sigma, not verdict.reuse, verdict.reason, verdict.score, macs, share=share)
        self.entries.append(entry)
        self._open.append((entry, watch, errors))

    def note(self, text: str) -> None:
        """A remark for the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    def settle(self) -> None:
        """Read times and errors from the device, and say if the cache was large."""
        for entry, watch, errors in self._open:
            entry.seconds = watch.seconds()
            entry.error = max(float(value) for value in errors) if errors else None
        self._open.clear()
        if self.peak_bytes >= LARGE:
            size = f"{self.peak_bytes / 2**30:.1f} GiB"
            self.note(
                f"The cache kept {size}. Where that is too much, keep it in RAM (cache_device cpu), or take a method that keeps less."
            )

    @property
    def evaluations(self) -> int:
        return len(self.entries)

    @property
    def computed(self) -> int:
        return sum(entry.computed for entry in self.entries)

    @property
    def reused(self) -> int:
        return self.evaluations - self.computed

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates really made, or None if they could not be counted."""
        return sum(entry.macs for entry in self.entries) if self.counted else None

    @property
    def macs_if_computed(self) -> int | None:
        """Estimate: what all evaluations would have taken if each had cost what the wholly computed ones did on average."""
        full = [entry.macs for entry in self.entries if entry.share == 1.0]
        return round(fmean(full) * self.evaluations) if self.counted and full else None

    @property
    def seconds_if_computed(self) -> float:
        """Estimate: the loop's time if every other evaluation had taken the median of the wholly computed ones."""
        full = [entry.seconds for entry in self.entries if entry.share == 1.0]
        saved = sum(median(full) - entry.seconds for entry in self.entries if entry.share < 1.0) if full else 0.0
        return self.seconds + saved

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready copy, read by the report node and by web/."""
        keys = ["recipe", "source", "site", "sampler", "steps", "evaluations", "computed", "reused", "seconds"]
        keys += ["seconds_if_computed", "macs", "macs_if_computed", "peak_bytes"]
        plain = {key: getattr(self, key) for key in keys}
        entries = [{key: _finite(value) for key, value in asdict(entry).items()} for entry in self.entries]
        return plain | {"notes": list(self.notes), "entries": entries}

    def __str__(self) -> str:
        reused = f"{self.recipe}: computed {self.computed} of {self.evaluations} evaluations in {self.seconds:.2f} s"
        return f"{reused}, cache {self.peak_bytes / 2**20:.1f} MiB"


def _finite(value: Any) -> Any:
    """JSON has no word for infinity, nor for what is not a number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
