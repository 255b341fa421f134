"""The shapes world: captioned pictures and clips of two things on a plain background, drawn from a seed."""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SIDE = 64  # pixels of a picture's side
FRAMES = 5  # frames of a clip
CELL = 21  # pixels between neighbouring places, also how far a moving thing goes in a clip
HOP = 8  # pixels that a bouncing thing rises

KINDS = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (0.86, 0.18, 0.16),
    "yellow": (0.96, 0.80, 0.16),
    "green": (0.22, 0.68, 0.30),
    "blue": (0.18, 0.42, 0.90),
    "purple": (0.62, 0.26, 0.78),
    "white": (0.95, 0.95, 0.95),
}
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": 7.0, "large": 9.8}  # radius in pixels
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
MOTIONS = ("at rest", "moving left", "moving right", "moving up", "moving down", "turning", "bouncing")
BACKGROUNDS = {
    "black": (0.07, 0.07, 0.09),
    "grey": (0.45, 0.45, 0.47),
    "navy": (0.08, 0.12, 0.30),
    "teal": (0.07, 0.36, 0.38),
    "brown": (0.34, 0.22, 0.14),
}
_STRIDE = {"moving left": (0, -1), "moving right": (0, 1), "moving up": (-1, 0), "moving down": (1, 0)}


class CaptionError(ValueError):
    """A caption that names something the world does not have, or leaves something out."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object; `motion` matters in clips only."""

    kind: str
    colour: str
    texture: str
    size: str
    place: str
    motion: str = "at rest"

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column of the place it starts from, each 0 to 2."""
        return divmod(PLACES.index(self.place), 3)

    @property
    def end(self) -> tuple[int, int]:
        """Row and column of the place where a clip leaves it; may lie outside the picture."""
        down, right = _STRIDE.get(self.motion, (0, 0))
        return self.cell[0] + down, self.cell[1] + right

    def moved(self) -> "Thing":
        """The same thing, resting where a clip leaves it."""
        row, column = self.end
        return replace(self, place=PLACES[3 * row + column], motion="at rest")


@dataclass(frozen=True, slots=True)
class Scene:
    """Two things and what is behind them."""

    things: tuple[Thing, Thing]
    background: str

    def after(self) -> "Scene":
        """The scene as a clip leaves it."""
        return Scene((self.things[0].moved(), self.things[1].moved()), self.background)


def caption(scene: Scene, moving: bool = False) -> str:
    """The complete description, and the only form that `parse` reads back."""

    def phrase(thing: Thing) -> str:
        text = f"a {thing.size} {thing.texture} {thing.colour} {thing.kind} at the {thing.place}"
        return f"{text} {thing.motion}" if moving else text

    return f"{phrase(scene.things[0])} and {phrase(scene.things[1])}, on a {scene.background} background"


def _one_of(words: Sequence[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_PHRASE = re.compile(
    rf"an? ({_one_of(list(SIZES))}) ({_one_of(TEXTURES)}) ({_one_of(list(COLOURS))}) ({_one_of(KINDS)})"
    rf" at the ({_one_of(PLACES)})(?: ({_one_of(MOTIONS)}))?"
)
_GROUND = re.compile(rf"on a ({_one_of(list(BACKGROUNDS))}) background")
_EXAMPLE = "a large striped red circle at the top left and a small plain blue star at the bottom, on a grey background"


def parse(text: str) -> Scene:
    """Read a caption back. Raises CaptionError with the words that are allowed if it is not a complete one."""
    text = " ".join(text.lower().split())
    things = [
        Thing(kind, colour, texture, size, place, motion or "at rest")
        for size, texture, colour, kind, place, motion in _PHRASE.findall(text)
    ]
    ground = _GROUND.search(text)
    if len(things) != 2 or ground is None:
        raise CaptionError(
            f"The demo models read captions of exactly two things and a background, and found {len(things)} thing(s) and "
            f"{'a' if ground else 'no'} background in {text!r}. Write it like this: {_EXAMPLE!r}. Sizes: {', '.join(SIZES)}; "
            f"textures: {', '.join(TEXTURES)}; colours: {', '.join(COLOURS)}; kinds: {', '.join(KINDS)}; places: "
            f"{', '.join(PLACES)}; motions (clips): {', '.join(MOTIONS)}; backgrounds: {', '.join(BACKGROUNDS)}."
        )
    return Scene((things[0], things[1]), ground[1])


def draw_scene(rng: random.Random, moving: bool = False) -> Scene:
    """A random scene whose two things never meet."""
    while True:
        first, second = (
            Thing(
                rng.choice(KINDS),
                rng.choice(list(COLOURS)),
                rng.choice(TEXTURES),
                rng.choice(list(SIZES)),
                rng.choice(PLACES),
                rng.choice(MOTIONS) if moving else "at rest",
            )
            for _ in range(2)
        )
        inside = all(0 <= at < 3 for thing in (first, second) for at in thing.end)
        if inside and not {first.cell, first.end} & {second.cell, second.end}:
            return Scene((first, second), rng.choice(list(BACKGROUNDS)))


def render(scenes: Sequence[Scene], rng: random.Random, frames: int = 1) -> Tensor:
    """Pictures [N, frames, SIDE, SIDE, 3] in 0..1; a little jitter of place, size, tilt and shade comes from `rng`."""
    axis = torch.arange(SIDE) + 0.5
    ground = torch.tensor([BACKGROUNDS[scene.background] for scene in scenes])
    shade = torch.tensor([[rng.uniform(-0.03, 0.03)] for _ in scenes])
    picture = (ground + shade)[:, None, None, None, :].expand(-1, frames, SIDE, SIDE, 3).clone()
    picture += 0.06 * ((axis / SIDE) - 0.5)[:, None, None]  # lighter towards the foot
    for slot in range(2):
        things = [scene.things[slot] for scene in scenes]
        alpha, colour = _draw(things, rng, frames, axis)
        picture += alpha[..., None] * (colour - picture)
    return picture.clamp(0, 1)


def _draw(things: Sequence[Thing], rng: random.Random, frames: int, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Cover [N, F, H, W] in 0..1 and colour [N, F, H, W, 3] of one thing per scene."""
    count = len(things)
    path = torch.tensor([_path(thing, rng, frames) for thing in things])  # [N, F, 3]: y, x, turn
    radius = torch.tensor([SIZES[thing.size] * rng.uniform(0.94, 1.06) for thing in things])[:, None, None, None]
    dy, dx = axis[:, None] - path[:, :, 0, None, None], axis - path[:, :, 1, None, None]
    cos, sin = path[:, :, 2, None, None].cos(), path[:, :, 2, None, None].sin()
    v, u = (cos * dy - sin * dx) / radius, (sin * dy + cos * dx) / radius
    outside = torch.empty(count, frames, SIDE, SIDE)
    for kind in KINDS:
        rows = [n for n, thing in enumerate(things) if thing.kind == kind]
        outside[rows] = _distance(kind, u[rows], v[rows])
    alpha = (0.5 - outside * radius).clamp(0, 1)
    light = torch.ones_like(alpha)
    for n, thing in enumerate(things):
        if thing.texture != "plain":
            light[n] = _texture(thing.texture, u[n] * radius[n], v[n] * radius[n])
    tint = torch.tensor([COLOURS[thing.colour] for thing in things]) * torch.tensor([[rng.uniform(0.94, 1.04)] for _ in things])
    return alpha, light[..., None] * tint[:, None, None, None, :]


def _path(thing: Thing, rng: random.Random, frames: int) -> list[list[float]]:
    """Centre y, x in pixels and turn in radians, a row per frame."""
    row, column = thing.cell
    down, right = _STRIDE.get(thing.motion, (0, 0))
    y, x = (SIDE / 2 + CELL * (at - 1) + rng.uniform(-1.5, 1.5) for at in (row, column))
    tilt, rows = rng.uniform(-0.15, 0.15), []
    for frame in range(frames):
        past = frame / (FRAMES - 1)
        rise = HOP * abs(math.sin(2 * math.pi * past)) if thing.motion == "bouncing" else 0.0
        turn = math.pi / 2 * past if thing.motion == "turning" else 0.0
        rows.append([y + CELL * down * past - rise, x + CELL * right * past, tilt + turn])
    return rows


def _distance(kind: str, u: Tensor, v: Tensor) -> Tensor:
    """Roughly the signed distance to the outline, in radii; negative inside. `v` points down."""
    if kind == "circle":
        return torch.hypot(u, v) - 0.95
    if kind == "ring":
        return (torch.hypot(u, v) - 0.72).abs() - 0.26
    if kind == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.82
    if kind == "cross":
        bar, post = torch.maximum(u.abs() - 0.95, v.abs() - 0.32), torch.maximum(v.abs() - 0.95, u.abs() - 0.32)
        return torch.minimum(bar, post)
    if kind == "triangle":
        return torch.maximum(v - 0.62, 0.866 * u.abs() - 0.5 * v - 0.5)
    sector = 2 * math.pi / 5  # star: five points, the first one up
    angle = (torch.atan2(u, -v) + sector / 2).remainder(sector) - sector / 2
    length = torch.hypot(u, v)
    across, along = length * angle.abs().sin(), length * angle.cos()
    return 0.95 * (across * math.cos(0.42) + (along - 1.08) * math.sin(0.42))


def _texture(texture: str, u: Tensor, v: Tensor) -> Tensor:
    """Brightness 0.4..1 in the thing's own pixels, so that a texture turns with its thing."""
    wave = torch.cos(2 * math.pi * (u + v) / 6.5) if texture == "striped" else _dots(u, v)
    return 0.7 + 0.3 * (3 * wave).clamp(-1, 1)


def _dots(u: Tensor, v: Tensor) -> Tensor:
    return 0.55 - torch.cos(2 * math.pi * u / 6) * torch.cos(2 * math.pi * v / 6) * 1.4
