"""What the demo VARs paint: scenes of large plain things, labelled by the kind and colour of the first one."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .. import judge
from ..world import COLOURS, KINDS, CaptionError, Scene, draw_scene, parse, render

SIDES = (1, 2, 3, 4, 5, 6, 8)  # token maps of a picture, coarse to fine
LABELS = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)
WEIGHTS = Path(__file__).parents[1] / "weights" / "var"


def label(scene: Scene) -> int:
    """The class of a scene, 0 to 35."""
    first = scene.things[0]
    return LABELS.index(f"{first.colour} {first.kind}")


def class_of(text: str) -> int | None:
    """The class that a name such as "red circle" or a caption of the shapes world names; None if neither."""
    name = " ".join(text.lower().split())
    if name in LABELS:
        return LABELS.index(name)
    try:
        return label(parse(name))
    except CaptionError:
        return None


def plain(scene: Scene) -> Scene:
    """The scene with its things large and without texture: codec and transformers are small, and trained for minutes."""
    first, second = (replace(thing, texture="plain", size="large") for thing in scene.things)
    return Scene((first, second), scene.background)


def draw(rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, 64, 64] in 0..1 and their classes [count]."""
    scenes = [plain(draw_scene(rng)) for _ in range(count)]
    return render(scenes, rng)[:, 0].movedim(-1, 1), torch.tensor([label(scene) for scene in scenes])


def agreement(pictures: Tensor, labels: Sequence[int]) -> float:
    """Share, 0..1, of pictures [N, 3, 64, 64] in which the judge sees a thing of the kind and colour that the class names."""
    readings = judge.read(pictures)
    hits = [any(f"{thing.colour} {thing.kind}" == LABELS[n] for thing in seen.things) for seen, n in zip(readings, labels, strict=True)]
    return sum(hits) / len(hits)
