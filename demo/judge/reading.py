"""Reads scenes back from pictures, and counts how much of what a prompt asked for is there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor

from ..world import BACKGROUNDS, PLACES, Scene, Thing
from .network import FILE, NONE, READS, Judge

ATTRIBUTES = ("place", "kind", "colour", "texture", "size", "background")
_BATCH = 128  # pictures read at once


@dataclass(frozen=True, slots=True)
class Reading:
    """What the judge sees: a thing or None at each of PLACES, how surely one stands there (0..1), the background."""

    places: tuple[Thing | None, ...]
    occupied: tuple[float, ...]
    background: str

    @property
    def things(self) -> tuple[Thing, ...]:
        """Everything that stands in the picture, the surest first."""
        order = sorted(range(len(PLACES)), key=lambda place: -self.occupied[place])
        return tuple(thing for place in order if (thing := self.places[place]) is not None)


@cache
def load() -> Judge:
    """Load the shipped judge, in float32, ready to read."""
    judge = Judge()
    judge.load_state_dict(load_file(FILE))
    return judge.float().eval().requires_grad_(False)


def as_pictures(frames: Tensor) -> Tensor:
    """Turn into pictures [N * F, 3, H, W] frames [N, F, H, W, 3] as the world and the codec give them."""
    return rearrange(frames, "n f h w c -> (n f) c h w")


@torch.no_grad()
def read(pictures: Tensor, judge: Judge | None = None) -> list[Reading]:
    """Read pictures [N, 3, 64, 64] in 0..1, by the shipped judge unless another is given."""
    judge = _ready(judge)
    readings: list[Reading] = []
    for part in _parts(pictures):
        logits = judge(part)
        occupied = 1 - logits["kind"].softmax(-1)[..., NONE]
        words = {name: logits[name].argmax(-1).tolist() for name in READS}
        grounds = logits["background"].argmax(-1).tolist()
        for n, ground in enumerate(grounds):
            places = [_thing({name: words[name][n][place] for name in READS}, place) for place in range(len(PLACES))]
            readings.append(Reading(tuple(places), tuple(occupied[n].tolist()), list(BACKGROUNDS)[ground]))
    return readings


def _parts(pictures: Tensor) -> Iterator[Tensor]:
    return (pictures[start : start + _BATCH].float() for start in range(0, len(pictures), _BATCH))


def _thing(found: dict[str, int], place: int) -> Thing | None:
    if found["kind"] == NONE:
        return None
    return Thing(**{name: words[found[name]] for name, words in READS.items()}, place=PLACES[place])


def _compare(reading: Reading, scene: Scene) -> Iterator[tuple[str, str, bool]]:
    """Each attribute that a scene asks for: its name, the word asked for, and whether the picture has it."""
    surest = sorted(range(len(PLACES)), key=lambda place: -reading.occupied[place])[:2]
    for thing in scene.things:
        place = PLACES.index(thing.place)
        seen = reading.places[place]
        yield "place", thing.place, place in surest
        for name in READS:
            asked = getattr(thing, name)
            yield name, asked, seen is not None and getattr(seen, name) == asked
    yield "background", scene.background, reading.background == scene.background


def misses(reading: Reading, scene: Scene) -> list[str]:
    """Name what a scene asks for and the picture lacks, in the scene's words."""
    return [asked for _, asked, hit in _compare(reading, scene) if not hit]


def agreement(pictures: Tensor, scenes: Sequence[Scene], judge: Judge | None = None) -> dict[str, float]:
    """Rate hits 0..1 of pictures [N, 3, 64, 64] against their scenes: per attribute, and "mean" over all of a scene.

    A place is hit if it is among the two most surely occupied; kind, colour, texture and size are hit if the judge
    reads them at the prompted place, so all four miss where it sees nothing.
    """
    if len(pictures) != len(scenes) or not scenes:
        raise ValueError(f"Each picture needs its scene: {len(pictures)} picture(s), {len(scenes)} scene(s).")
    hits = dict.fromkeys(ATTRIBUTES, 0)
    for reading, scene in zip(read(pictures, judge), scenes, strict=True):
        for name, _, hit in _compare(reading, scene):
            hits[name] += hit
    chances = {name: len(scenes) * (1 if name == "background" else 2) for name in ATTRIBUTES}
    rates = {name: hits[name] / chances[name] for name in ATTRIBUTES}
    return rates | {"mean": sum(hits.values()) / sum(chances.values())}


@torch.no_grad()
def features(pictures: Tensor, judge: Judge | None = None) -> Tensor:
    """Give the penultimate features [N, 240] of pictures [N, 3, 64, 64] in 0..1."""
    judge = _ready(judge)
    return torch.cat([judge.features(part).flatten(1) for part in _parts(pictures)])


def _ready(judge: Judge | None) -> Judge:
    judge = load() if judge is None else judge
    assert not judge.training, "In training, its norms would learn from what it reads."
    return judge
