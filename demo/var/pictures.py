"""What the demo VARs paint: scenes of the shapes world, labelled by the kind and colour of their first thing."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .. import judge
from ..world import COLOURS, KINDS, Scene, draw_scene, parse, render

SIDES = (1, 2, 3, 4, 5, 6, 8)  # token maps of a picture, coarse to fine
LABELS = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)
WEIGHTS = Path(__file__).parents[1] / "weights" / "var"


def label(scene: Scene) -> int:
    """The class of a scene, 0 to 35."""
    first = scene.things[0]
    return LABELS.index(f"{first.colour} {first.kind}")


def label_of_caption(text: str) -> int:
    """The class of a caption of the shapes world. Raises CaptionError, as `parse` does."""
    return label(parse(text))


def draw(rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """Pictures [count, 3, 64, 64] in 0..1 and their classes [count]."""
    scenes = [draw_scene(rng) for _ in range(count)]
    return render(scenes, rng)[:, 0].movedim(-1, 1), torch.tensor([label(scene) for scene in scenes])


def agreement(pictures: Tensor, labels: Sequence[int]) -> float:
    """Share, 0..1, of pictures [N, 3, 64, 64] in which the judge sees a thing of the kind and colour that the class names."""
    readings = judge.read(pictures)
    hits = [any(f"{thing.colour} {thing.kind}" == LABELS[n] for thing in seen.things) for seen, n in zip(readings, labels, strict=True)]
    return sum(hits) / len(hits)
