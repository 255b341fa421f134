"""`./encore bench probe`: what the first blocks, if they ran at a skipped step, would tell of the prediction there.

A probe of the kind that methods with first blocks look at, used for all that it can say: not how large its change is but the
change itself, token by token. At each skipped step the prediction and the probe are forecast from the last computed steps with
the same weights, and what was not foreseen in the one is regressed on what was not foreseen in the other.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..cache_core import Schedule
from ..cache_core import published as p
from ..cache_core.masks import budget
from ..cache_core.trace import Trajectory, universal
from ..demo.agreement import HELD_OUT, Setting
from ..nodes.adapters.families import blocks_of
from .contest import Course
from .output import Columns
from .progress import Bar
from .rows import Row, blank
from .teachers import PROMPTS, classroom

SPEEDS = (2.0, 4.0)
ANCHORS = 5  # computed steps that a forecast is made from, as in TRACE
PATCH = 2  # sides of a token in the latent, of both demo models
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # times the mean square of a probe's channels


@dataclass(slots=True)
class Watched:
    """Uncached samplings of some prompts together: velocities [B, L, E] and, of each block, its tokens [B, L, D], step by step."""

    velocities: list[Tensor] = field(default_factory=list)
    tokens: list[list[Tensor]] = field(default_factory=list)
    sigmas: tuple[float, ...] = ()


def run(course: Course, setting: Setting, rounds: int, bar: Bar) -> list[Row]:
    """A row for each speed and number of blocks: learnt on a calibration's prompts, tried on the held-out. `rounds` does not matter."""
    room = classroom(course.family, setting, len(course.scenes))
    bar.expect(course, [setting, setting])
    with torch.inference_mode():
        known, held_out = watch(room, setting, PROMPTS, bar), watch(course, setting, HELD_OUT, bar)
        schedule, rows = Schedule((*known.sigmas, 0.0)), []
        for speed in SPEEDS:
            mask = sorted(universal().computed(schedule, budget(schedule.total, speed)))
            for block, share in enumerate(explained(known, held_out, mask)):
                row = blank(course, "probe", f"{speed:g}x, {block + 1} of {len(known.tokens)} blocks", [])
                row |= {"steps": schedule.total, "computed": len(mask), "blocks": block + 1, "explained": share}
                rows.append(row | {"explained_db": -10 * math.log10(max(1 - share, 1e-9))})
    return rows


def watch(course: Course, setting: Setting, seed: int, bar: Bar) -> Watched:
    """Sample all prompts of a course uncached and keep what its blocks gave."""
    network, teacher = course.model.model.diffusion_model, Trajectory()
    blocks = blocks_of(network)
    assert blocks is not None, "the demo models' blocks are known"
    modules = [blocks.block(network, key) for key in blocks.keys(network)]
    found = Watched(tokens=[[] for _ in modules])
    with listening(modules, found.tokens):
        course.sampled(p.collect(teacher), setting, seed, bar)
    found.velocities = [patched(velocity) for velocity in teacher.velocities]
    found.sigmas = tuple(teacher.sigmas)
    (batch, length, _), steps = found.velocities[0].shape, len(found.sigmas)
    calls = len(found.tokens[0]) // steps  # the host calls the network once for each condition, or once for all
    found.tokens = [[beside(torch.cat(each[n : n + calls]), length, batch) for n in range(0, len(each), calls)] for each in found.tokens]
    return found


@contextmanager
def listening(modules: Sequence[nn.Module], into: list[list[Tensor]]) -> Iterator[None]:
    """Keep what each module gives: of several tensors the first, the picture's, in half precision."""

    def hook(kept: list[Tensor]) -> Any:
        return lambda module, args, out: kept.append((out[0] if isinstance(out, tuple) else out).half())

    hooks = [module.register_forward_hook(hook(kept)) for module, kept in zip(modules, into, strict=True)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def patched(latent: Tensor) -> Tensor:
    """A velocity [B, C, (F,) H, W] as tokens [B, L, C * PATCH^2] in the networks' order."""
    clips = latent if latent.ndim == 5 else latent[:, :, None]
    return rearrange(clips, "b c f (h p) (w q) -> b (f h w) (c p q)", p=PATCH, q=PATCH)


def beside(tokens: Tensor, length: int, batch: int) -> Tensor:
    """Of tokens [conditions * B, .., D] the last `length`, the picture's; the conditions' side by side, [B, L, conditions * D]."""
    return torch.cat(tokens[:, -length:].chunk(len(tokens) // batch), -1)


def explained(known: Watched, held_out: Watched, mask: Sequence[int]) -> list[float]:
    """For each block the share of the unforeseen in the skipped predictions that its unforeseen part tells on the held-out prompts.

    The ridge of each step is the one that is best there, so this is the most that could be had.
    """
    left, total = [0.0] * len(known.tokens), 0.0
    for step in range(mask[1], len(known.sigmas)):
        anchors = [computed for computed in mask if computed < step][-ANCHORS:]
        if step in mask:
            continue
        weights = forecast(known.velocities, step, anchors)
        goal, wanted = (unforeseen(each.velocities, step, anchors, weights) for each in (known, held_out))
        total += float(wanted.square().sum())
        for block, (ours, theirs) in enumerate(zip(known.tokens, held_out.tokens, strict=True)):
            seen, probe = (unforeseen(each, step, anchors, weights) for each in (ours, theirs))
            left[block] += min(float((wanted - probe @ gains).square().sum()) for gains in regressions(seen, goal))
    return [1 - each / total for each in left]


def forecast(values: Sequence[Tensor], step: int, anchors: Sequence[int]) -> Tensor:
    """Least-squares weights [anchors] of a step's value on those of the anchors."""
    past = torch.stack([values[n].flatten().double() for n in anchors], 1)
    square = past.T @ past
    ridge = 1e-6 * square.diagonal().mean() * torch.eye(len(anchors))
    weights: Tensor = torch.linalg.solve(square + ridge, past.T @ values[step].flatten().double())
    return weights


def unforeseen(values: Sequence[Tensor], step: int, anchors: Sequence[int], weights: Tensor) -> Tensor:
    """A step's values without their forecast, [B * L, D]."""
    left = values[step].double()
    for weight, n in zip(weights.tolist(), anchors, strict=True):
        left = left - weight * values[n].double()
    return left.flatten(0, 1)


def regressions(seen: Tensor, goal: Tensor) -> list[Tensor]:
    """Matrices [D, E] that lead from `seen` [N, D] to `goal` [N, E], one for each ridge."""
    square, cross = seen.T @ seen, seen.T @ goal
    one = square.diagonal().mean().clamp_min(1e-30) * torch.eye(len(square))
    return [torch.linalg.solve(square + ridge * one, cross) for ridge in RIDGES]


COLUMNS: Columns = (
    ("model", lambda row: row["model"]),
    ("setting", lambda row: row["setting"]),
    ("computed", lambda row: f"{row['computed']} of {row['steps']}"),
    ("explained", lambda row: f"{100 * row['explained']:.1f} %"),
    ("worth", lambda row: f"{row['explained_db']:.2f} dB"),
)
