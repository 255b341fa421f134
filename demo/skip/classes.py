"""Classes of the shapes world: a kind and a colour. A picture of a class shows two large plain things of it, anywhere."""

import random

from ..world import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene, Thing

NAMES = tuple(f"{colour} {kind}" for colour in COLOURS for kind in KINDS)
NONE = len(NAMES)  # the label for no class


def draw(label: int, rng: random.Random) -> Scene:
    """A random scene of class `label`, 0 to 35."""
    colour, kind = NAMES[label].split()
    first, second = (Thing(kind, colour, "plain", "large", place) for place in rng.sample(PLACES, 2))
    return Scene((first, second), rng.choice(list(BACKGROUNDS)))
