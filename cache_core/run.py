"""One sampling: all its streams, decided together."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .errors import ProtocolError
from .ledger import Ledger
from .measure import Stopwatch
from .recipe import Recipe
from .stream import Stream
from .types import Probe, Schedule, Step, StreamKey, Verdict


class Run:
    """Owns the streams of one sampling. The host makes one per sampling and lets go of it at the end.

    Every evaluation of the solver is `begin`, then `reuse` or `record` once for each condition, then `end`.
    """

    def __init__(self, recipe: Recipe, schedule: Schedule) -> None:
        self.recipe = recipe
        self.schedule = schedule
        self.ledger = Ledger(recipe.name, recipe.source, recipe.site.value, schedule.total)
        self.macs = 0  # of the evaluation under way; the adapter adds to it
        self._streams: dict[Any, Stream] = {}
        self._evaluation: tuple[Step, Verdict, Stopwatch] | None = None
        self._keys: dict[Any, None] = {}  # conditions seen in the evaluation under way
        self._last: list[Any] = []  # conditions of the evaluation before
        self._calls: Counter[StreamKey] = Counter()
        self._errors: list[Tensor] = []

    @property
    def reusing(self) -> bool:
        """Whether the evaluation under way was decided to be reused."""
        return self._now()[1].reuse

    def begin(self, sigma: float, x: Tensor) -> bool:
        """Open the evaluation at `sigma` of state `x` [B, ...] and decide it: skipped only if all streams agree."""
        step = Step(self.schedule, sigma, self.ledger.evaluations)
        probe = x if self.recipe.policy.probe is Probe.LATENT else None
        verdicts = [self._streams[key].propose(step, probe) for key in self._last]
        refusal = next((verdict for verdict in verdicts if not verdict.reuse), None)
        verdict = refusal or (verdicts[0] if verdicts else Verdict(False, "nothing cached yet"))
        self._keys, self._calls, self._errors, self.macs = {}, Counter(), [], 0
        self._evaluation = (step, verdict, Stopwatch(x.device))
        return verdict.reuse

    def occurrence(self, key: StreamKey) -> tuple[StreamKey, int]:
        """`key` and how often it has come before in this evaluation: guidance methods ask for a condition repeatedly."""
        self._calls[key] += 1
        return key, self._calls[key] - 1

    def can_reuse(self, key: StreamKey, x: Tensor) -> bool:
        """Whether the evaluation under way is reused and has a forecast for condition `key` with input `x` [B, ...]."""
        return self.reusing and self._form(key, x) in self._last

    def reuse(self, key: StreamKey, x: Tensor) -> Tensor:
        """Forecast of the output [B, ...] of condition `key` for its input `x` [B, ...]."""
        form = self._form(key, x)
        self._keys[form] = None
        return self._streams[form].reuse(x)

    def record(self, key: StreamKey, x: Tensor, y: Tensor) -> None:
        """Learn output `y` [B, ...] of condition `key` for its input `x` [B, ...]."""
        step, verdict, _ = self._now()
        form = self._form(key, x)
        if form not in self._streams:
            self._streams[form] = Stream(self.recipe)
        if form not in self._last:
            self._streams[form].propose(step, x if self.recipe.policy.probe is Probe.LATENT else None)
            if verdict.reuse:
                self.ledger.note("A condition, window or size that was not there before had to be computed at a reused step.")
        self._keys[form] = None
        error = self._streams[form].record(x, y)
        if error is not None:
            self._errors.append(error)

    def end(self) -> None:
        """Close the evaluation and note it in the ledger."""
        step, verdict, watch = self._now()
        self.ledger.add(step, verdict, self.macs, watch.stop(), self._errors)
        self.ledger.peak_bytes = max(self.ledger.peak_bytes, sum(s.nbytes for s in self._streams.values()))
        self._last, self._evaluation = list(self._keys), None

    def _now(self) -> tuple[Step, Verdict, Stopwatch]:
        if self._evaluation is None:
            raise ProtocolError("Run was used outside of an evaluation: begin() comes first.")
        return self._evaluation

    @staticmethod
    def _form(key: StreamKey, x: Tensor) -> Sequence[Any]:
        """A stream is a condition at one shape, dtype and device: any other is another stream."""
        return (key, tuple(x.shape), x.dtype, x.device)
