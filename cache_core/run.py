"""One sampling: all its streams, decided together."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from torch import Tensor

from .errors import ProtocolError
from .fallback import outside
from .ledger import Ledger
from .measure import Ratio, Stopwatch
from .recipe import Recipe
from .stream import Stream
from .types import Case, Schedule, Step, StreamKey, Verdict


class Run:
    """Owns the streams of one sampling. The host makes one per sampling and lets go of it at the end.

    Every evaluation of the solver is `begin`, then for each group of conditions that are computed together `decide` and
    either `reuse` or `record` for each of them, then `end`.
    """

    def __init__(self, recipe: Recipe, schedule: Schedule) -> None:
        self.recipe = recipe
        self.schedule = schedule
        self.ledger = Ledger(recipe.name, recipe.source, recipe.site.value, schedule.total)
        self.macs = 0  # of the evaluation under way; the adapter adds to it
        self.costs: dict[Hashable, int] = {}  # multiply-accumulates of a network's calls by their form, where nothing is skipped in part
        self.level: tuple[Tensor | None, float] = (None, 0.0)  # of the evaluation under way, as the adapter met it and as read
        self.found: dict[int, Any] = {}  # what the adapter found out about each network, by its identity
        self._streams: dict[Hashable, Stream] = {}
        self._evaluation: tuple[Step, Stopwatch] | None = None
        self._verdicts: list[Verdict] = []  # of the evaluation under way, one for each group
        self._errors: list[Ratio] = []
        self._grown = False  # whether more may be kept than before it
        self._calls: dict[StreamKey, int] = {}  # how often each condition was asked for in the evaluation under way

    def begin(self, sigma: float, x: Tensor) -> None:
        """Open the evaluation at noise level `sigma` of the solver's state `x` [B, ...]."""
        step = Step(self.schedule, sigma, len(self.ledger.entries))
        self._verdicts, self._errors, self._calls, self.macs = [], [], {}, 0
        self._evaluation = (step, Stopwatch(x.is_cuda))

    def occurrence(self, key: StreamKey) -> tuple[StreamKey, int]:
        """`key` and how often it has come before in this evaluation: guidance methods ask for a condition repeatedly."""
        before = self._calls.get(key, 0)
        self._calls[key] = before + 1
        return key, before

    def decide(self, cases: Sequence[Case]) -> bool:
        """Whether all `cases`, which are computed together, are forecast: only if all their streams agree.

        A condition that is seen for the first time, or in another shape, has nothing to be forecast from and is computed.
        """
        step, verdict = (self._evaluation or self._unopened())[0], None
        for case in cases:
            wish = self._stream(case).propose(step, case.probe, case.x if case.picture is None else case.picture)
            if verdict is None or (verdict.reuse and not wish.reuse):
                verdict = wish
        assert verdict is not None, "something is asked about"
        self._verdicts.append(verdict)
        return verdict.reuse

    def reuse(self, case: Case) -> Tensor:
        """Forecast of the output [B, ...], after `decide` said so."""
        stream: Stream = case.stream or self._stream(case)
        self.macs += stream.macs(case.x)
        forecast = stream.reuse(case.x)
        self._grown |= stream.grows
        return forecast

    def record(self, case: Case, y: Tensor, ours: bool = False) -> Tensor:
        """Learn the computed output `y` [B, ...], after `decide` said to compute; returns what to hand on, `y` itself in most recipes.

        What is kept of it is a copy, but if it is `ours`: then nobody may write into it any more.
        """
        stream: Stream = case.stream or self._stream(case)
        error = stream.record(case.x, y, ours)
        self._grown |= stream.grows
        if error is not None:
            self._errors.append(error)
        if not stream.corrects:
            return y
        self.macs += stream.macs(case.x)
        return stream.corrected(case.x, y)

    def end(self) -> None:
        """Close the evaluation and note it in the ledger: computed if anything in it was."""
        step, watch = self._evaluation or self._unopened()
        verdicts = self._verdicts or [Verdict(False, "outside of the cache's reach")]
        verdict, share = (verdicts[0], 0.0 if verdicts[0].reuse else 1.0) if len(verdicts) == 1 else _together(verdicts)
        self.ledger.add(step, verdict, self.macs, watch.stop(), self._errors, share)
        if self._grown:
            self.ledger.peak_bytes = max(self.ledger.peak_bytes, sum([stream.nbytes for stream in self._streams.values()]))
            self._grown = False
        self._evaluation = None

    def retreat(self, reason: str) -> None:
        """Leave the inside of the network for the site COND, because of `reason`, a sentence; the report says so."""
        self.recipe, told = outside(self.recipe)
        self.ledger.site = self.recipe.site.value
        self.ledger.note(f"{reason} {told}")
        self._streams.clear()

    def _unopened(self) -> NoReturn:
        raise ProtocolError("Run was used outside of an evaluation: begin() comes first.")

    def _stream(self, case: Case) -> Stream:
        """The stream of a condition at one place, shape, dtype and device: any other of these is another stream."""
        form = (case.key, case.place, case.x.shape, case.x.dtype, case.x.device)
        stream = self._streams.get(form)
        if stream is None:
            stream = self._streams[form] = Stream(self.recipe, case.place)
        case.stream = stream
        return stream


def _together(verdicts: Sequence[Verdict]) -> tuple[Verdict, float]:
    """One verdict on all groups of an evaluation, and the share of them that were computed."""
    computed = [verdict for verdict in verdicts if not verdict.reuse]
    if len(computed) in (0, len(verdicts)):
        return verdicts[0], len(computed) / len(verdicts)
    reason = f"{len(computed)} of {len(verdicts)} parts: {computed[0].reason}"
    return replace(computed[0], reason=reason), len(computed) / len(verdicts)
