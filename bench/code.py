"""CoDe on the demo VARs: seconds, memory and quality of drafter, refiner and both together, at every number of drafted scales."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from ..cache_core.var.report import Report
from ..cache_core.var.sampling import Sampling
from ..demo import judge
from ..demo.agreement import HELD_OUT
from ..demo.var.pictures import LABELS, WEIGHTS, agreement, draw
from ..nodes.adapters.var import Loaded, load, sample
from .bootstrap import interval, means, medians, resamples
from .output import Row
from .progress import Bar

TOGETHER = 32  # pictures of a batch, as many as the bar of the issue and a common number on a large GPU
FRESH = 512  # pictures of the world itself, for Frechet distances
SETTINGS = Sampling(cfg=1.5, top_k=100, top_p=0.96)  # VAR's, with the published share of its words: 900 of 4096
SPECIALISED = 5  # scales that the specialised pair was made for
SEED = 1_000  # of the first batch
DRAWS = 200  # resamples of a Frechet distance


@dataclass(slots=True)
class Entrant:
    """A way to sample, and what it gave."""

    name: str
    words: str
    parts: list[Loaded]
    drafted: int | None = None
    reports: list[Report] = field(default_factory=list)  # one a timed round
    features: list[Tensor] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)  # agreement of each batch

    def batch(self, number: int) -> Report:
        """Sample one batch and keep what the judge makes of it."""
        classes = [(number * TOGETHER + n) % len(LABELS) for n in range(TOGETHER)]
        pictures, report = sample(self.parts, self.drafted, classes, SEED + number, SETTINGS)
        seen = pictures.movedim(-1, 1)
        self.features.append(judge.features(seen))
        self.hits.append(agreement(seen, classes))
        return report

    def distances(self) -> Tensor:
        """Frechet distance from the world's own pictures: of all of its own, then of each resample of its batches."""
        features, count = torch.stack(self.features), len(self.features)
        draws = [torch.arange(count), *resamples(count)[:DRAWS]]
        return torch.tensor([judge.frechet(features[draw].flatten(0, 1), fresh()) for draw in draws])


@cache
def fresh() -> Tensor:
    """The judge's features [FRESH, 240] of pictures of the world that no demo VAR was trained on."""
    return judge.features(draw(random.Random(HELD_OUT + 2), FRESH)[0])


def entrants() -> list[Entrant]:
    """Each model alone, then the plain and the specialised pair."""
    codec = WEIGHTS / "demo-vqvae.safetensors"
    drafter, refiner, *pair = (load(file, codec, None) for file in _files()[1:])
    scales = drafter.scales
    plain = [Entrant("CoDe", f"N = {n}, training-free", [drafter, refiner], n) for n in range(scales - 1, 2, -1)]
    special = [Entrant("CoDe", f"N = {n}, specialised at {SPECIALISED}", pair, n) for n in range(SPECIALISED, 2, -1)]
    return [Entrant("VAR", "drafter alone", [drafter]), Entrant("VAR", "refiner alone", [refiner]), *plain, *special]


def _files() -> list[Path]:
    names = ("vqvae", "drafter", "refiner", f"drafter_{SPECIALISED}", f"refiner_{SPECIALISED}")
    return [WEIGHTS / f"demo-{name}.safetensors" for name in names]


@torch.inference_mode()
def run(prompts: int, rounds: int, bar: Bar) -> tuple[list[Row], list[Path]]:
    """Rows of all entrants on `prompts` batches, timed in `rounds` in turns, and the weight files."""
    found = entrants()
    bar.add(len(found) * (prompts + rounds + 1))
    for number in range(prompts):
        for entrant in found:
            entrant.batch(number)
            bar(1)
    for number in range(rounds + 1):  # the first one warms up
        for entrant in found:
            classes = [n % len(LABELS) for n in range(TOGETHER)]
            _, report = sample(entrant.parts, entrant.drafted, classes, number, SETTINGS)
            entrant.reports += [report] if number else []
            bar(1)
    return [_row(entrant, found[0]) for entrant in found], _files()


def _row(entrant: Entrant, drafter: Entrant) -> Row:
    """Numbers of an entrant, and how they compare with the drafter alone."""
    report, seconds = entrant.reports[0], [one.seconds for one in entrant.reports]
    theirs = [one.seconds for one in drafter.reports]
    distances, hits, best = entrant.distances(), fmean(entrant.hits), fmean(drafter.hits)
    change = distances / drafter.distances() - 1
    row: Row = {"model": "demo-var", "method": entrant.name, "setting": entrant.words, "notes": []}
    row |= {"pictures": TOGETHER * len(entrant.hits), "batch": TOGETHER, "rounds": len(seconds), "seconds": median(seconds)}
    row |= {"speedup": median(theirs) / median(seconds), "speedup_ci": interval(medians(theirs) / medians(seconds))}
    row |= {"painting_seconds": median(one.painting_seconds for one in entrant.reports)}
    row |= {"kv_bytes": report.kv_bytes, "peak_bytes": report.peak_bytes, "device_peak": report.device_peak}
    row |= {"memory_saved": 1 - report.peak_bytes / drafter.reports[0].peak_bytes}
    row |= {"frechet": float(distances[0]), "frechet_change": float(change[0]), "frechet_change_ci": interval(change[1:])}
    row |= {"agreement": hits, "agreement_change": hits / best - 1 if best else None}
    row["agreement_change_ci"] = interval(means(entrant.hits) / means(drafter.hits) - 1) if best else None
    return row


def _of(key: str, form: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value: Any = row[key]
        return format(value, form)

    return cell


COLUMNS = [
    ("method", _of("method", "")),
    ("setting", _of("setting", "")),
    ("seconds", _of("seconds", ".3f")),
    ("speedup", _of("speedup", ".2f")),
    ("peak MiB", lambda row: f"{row['peak_bytes'] / 2**20:.1f}"),
    ("less memory", _of("memory_saved", ".0%")),
    ("Frechet", _of("frechet", ".2f")),
    ("change", _of("frechet_change", "+.1%")),
    ("agreement", _of("agreement", ".1%")),
    ("change", _of("agreement_change", "+.1%")),
]
