"""The one schema of all benchmarks: a row for each entrant, every difference with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from .bootstrap import Interval, interval, means, medians, resamples
from .contest import Course, Result
from .metrics import Score, frechets, fresh, rows_of, stacked

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Makes rows of results on one course, all compared with the `uncached` result."""

    course: Course
    uncached: Result
    fresh_distance: Tensor  # Frechet distance of the uncached set from fresh renders: of all prompts, then in each resample

    def row(self, result: Result, rivals: Mapping[str, Result], notes: Sequence[str] = ()) -> Row:
        """All that was measured of `result`. `rivals` are plain ways that cost as much, by name."""
        entrant, scores, ledgers = result.entrant, result.scores, result.ledgers
        row = blank(self.course, entrant.method, entrant.words, notes)
        row |= {
            "steps": ledgers[0].steps,
            "evaluations": _whole(result.mean(lambda ledger: ledger.evaluations)),
            "computed": _whole(result.mean(lambda ledger: ledger.computed)),
            "macs_reduction": _ratio(self.uncached.macs, result.macs),
            "peak_bytes": max(ledger.peak_bytes for ledger in ledgers) if entrant.recipe else 0,
            "notes": [*notes, *(note for note in ledgers[0].notes if entrant.recipe)],
        }
        row |= self._speed(result) | self._distances(scores) | self._agreement(scores)
        for name in ("psnr_db", "ssim", "judge_distance"):
            row |= _with_interval(name, [getattr(one, name) for one in scores])
            for rival, other in rivals.items():
                pairs = zip(scores, other.scores, strict=True)
                row |= _with_interval(f"{name}_over_{rival}", [getattr(a, name) - getattr(b, name) for a, b in pairs])
        return row

    def _speed(self, result: Result) -> Row:
        """Ratio of the medians of the denoising loop's seconds, batch 1, and its interval over the rounds."""
        ours, theirs = result.seconds, self.uncached.seconds
        if not ours:
            return {}
        found = interval(medians(theirs) / medians(ours))
        row = {"speedup": median(theirs) / median(ours), "speedup_ci": found}
        return row | {"seconds": median(ours), "seconds_least": min(ours), "rounds": len(ours)}

    def _distances(self, scores: Sequence[Score]) -> Row:
        """Frechet distances: from the uncached set, and from fresh renders with the change that the cache brought."""
        ours, theirs = stacked(scores), stacked(self.uncached.scores)
        draws = _draws(scores)
        near = frechets(ours, theirs, draws, paired=True)
        far = _from_fresh(self.course.family, scores)
        change = far / self.fresh_distance - 1
        row = {"frechet": float(near[0]), "frechet_ci": interval(near[1:]), "frechet_fresh": float(far[0])}
        return row | {"frechet_fresh_change": float(change[0]), "frechet_fresh_change_ci": interval(change[1:])}

    def _agreement(self, scores: Sequence[Score]) -> Row:
        """Share of what the prompts ask for, and its change relative to the uncached set."""
        ours, theirs = ([one.agreement for one in part] for part in (scores, self.uncached.scores))
        row = _with_interval("agreement", ours)
        row["agreement_change"] = fmean(ours) / fmean(theirs) - 1 if fmean(theirs) else None
        row["agreement_change_ci"] = interval(means(ours) / means(theirs) - 1)
        return row


def make_table(course: Course, uncached: Result) -> Table:
    """A table of rows compared with `uncached`, which is a result that has been scored against itself."""
    return Table(course, uncached, _from_fresh(course.family, uncached.scores))


def blank(course: Course, method: str, words: str, notes: Sequence[str]) -> Row:
    """The row of what was not or not yet measured."""
    numbers = ("steps", "computed", "macs_reduction", "speedup", "psnr_db", "ssim", "judge_distance", "frechet", "agreement")
    row: Row = {"model": course.name, "method": method, "setting": words, **dict.fromkeys(numbers)}
    return row | {"prompts": len(course.scenes), "notes": list(notes)}


def _draws(scores: Sequence[Score]) -> Tensor:
    """Rows of the stacked features: all of them, then those of each resample."""
    everyone = torch.arange(len(scores))[None]
    return rows_of(torch.cat([everyone, resamples(len(scores))]), len(scores[0].features))


def _from_fresh(family: str, scores: Sequence[Score]) -> Tensor:
    return frechets(stacked(scores), fresh(family), _draws(scores), paired=False)


def _with_interval(name: str, values: Sequence[float]) -> Row:
    found: Interval = interval(means(values))
    return {name: fmean(values), f"{name}_ci": found}


def _whole(value: float) -> float:
    """A mean of counts: a whole number where all of them were the same."""
    return int(value) if value == int(value) else round(value, 3)


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None
