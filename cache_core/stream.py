"""One stream: a condition at a site, followed from evaluation to evaluation."""

from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, NoReturn

from torch import Tensor

from .errors import ProtocolError
from .history import History
from .measure import Ratio
from .policies.place import goes_by_exams
from .predictors import Predictor
from .recipe import Recipe, Site
from .types import Observation, Place, Step, Verdict

FILLED = 5  # evaluations of a kind, computed or reused, after which a policy keeps all that it ever will: Embedded has five outputs


class Stream:
    """What one stream remembers. Made when its first output comes, dropped with the run, never reset.

    Each evaluation is `propose`, then exactly one of `reuse` and `record`. What is computed is examined, but at the sites
    block and branch, where an exam of every part would cost as much as the caching, only if the policy goes by it.
    """

    def __init__(self, recipe: Recipe, place: Place | None = None) -> None:
        self._recipe = recipe
        self._place = place
        self.corrects = recipe.predictor.corrects
        self.grows = True  # whether it may keep more by now than at any evaluation before
        self._depth = recipe.predictor.depth
        self._keeps = recipe.predictor.keeps_inputs, recipe.predictor.keeps_probes
        self._examined = recipe.site not in (Site.BLOCK, Site.BRANCH) or goes_by_exams(recipe.policy)
        self._watched = type(recipe.predictor).watch is not Predictor.watch
        self._state: Any = recipe.policy.init()
        self._history = History(self._depth, recipe.placement)
        self._seen: Observation | None = None
        self._last: Observation | None = None  # of the newest recorded output, for a predictor that corrects: it holds large tensors
        self._age = 0
        self._computed = 0
        self._reused = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the anchors and of what the policy compares with."""
        if self._state is None:
            return self._history.nbytes
        compared = {id(kept): kept.nbytes for kept in _tensors(self._state)}
        return self._history.nbytes + sum(compared.values())

    def propose(self, step: Step, probe: Tensor | None, x: Tensor | None = None) -> Verdict:
        """The policy's wish for this evaluation; `probe` and the site's input `x` for policies, both [B, ...], are this stream's rows."""
        self._seen = Observation(step, probe, self._age, self._computed, x, place=self._place)
        verdict, self._state = self._recipe.policy.propose(self._state, self._seen)
        return verdict if self._computed else Verdict(False, "nothing cached yet", verdict.score)

    def reuse(self, x: Tensor) -> Tensor:
        """Forecast [B, ...] of the site's output for its input `x` [B, ...]; `x` is left as it is."""
        seen = self._seen or self._unasked()
        self._seen = None
        feature = self._recipe.predictor.predict(self._history, seen, x)
        self._state = self._recipe.policy.settle(self._state, seen, None)
        self._age += 1
        self._reused += 1
        self.grows = self._reused <= FILLED
        return self._recipe.target.decode(x, feature)

    def record(self, x: Tensor, y: Tensor, ours: bool = False) -> Ratio | None:
        """Learn the computed output `y` for input `x`, both [B, ...]. `y` is copied, but if it is `ours`.

        Returns the relative error that the forecast would have had, or None if there was no exam.
        """
        seen, predictor = self._seen or self._unasked(), self._recipe.predictor
        self._seen = None
        feature, error = self._recipe.target.encode(x, y), None
        if self._examined and self._computed:
            error = Ratio(predictor.miss(self._history, seen, x, feature), feature)
        if self._watched:
            predictor.watch(self._history, seen, feature)
        inputs, probes = self._keeps
        beside = x if inputs else seen.probe if probes else None
        self._history.push(seen.step.sigma, feature, beside, ours or feature is not y)
        seen.error = error
        self._state = self._recipe.policy.settle(self._state, seen, y)
        self._age = 0
        self._computed += 1
        self.grows = self._computed <= self._depth + FILLED
        self._last = seen if self.corrects else None
        return error

    def macs(self, x: Tensor) -> int:
        """What the predictor's own matrices take: of the forecast before it is made, of the correction after the output is recorded."""
        return self._recipe.predictor.macs(self._history, self._seen or self._last or self._unasked(), x)

    def corrected(self, x: Tensor, y: Tensor) -> Tensor:
        """What to hand on [B, ...] for the output `y` that was just recorded, if the predictor `corrects`: it repays drift with it."""
        predictor, target = self._recipe.predictor, self._recipe.target
        assert self._last is not None, "recorded just now"
        return target.decode(x, predictor.correct(self._history, self._last, x, target.encode(x, y)))

    def _unasked(self) -> NoReturn:
        raise ProtocolError("Stream.reuse or Stream.record was called without Stream.propose before it.")


@cache
def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind)]


def _tensors(state: Any) -> list[Tensor]:
    """The tensors in a policy's state."""
    if isinstance(state, Tensor):
        return [state]
    if state is None or isinstance(state, (int, float)):
        return []
    if is_dataclass(state):
        kind: Any = type(state)
        state = tuple([getattr(state, name) for name in _names(kind)])
    return [kept for part in state for kept in _tensors(part)] if isinstance(state, tuple) else []
