"""The demo models' text encoder: each phrase of a caption is one token, a sum of fixed orthogonal word vectors."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .world import BACKGROUNDS, COLOURS, KINDS, MOTIONS, PLACES, SIZES, TEXTURES, Scene

WORDS = (*KINDS, *COLOURS, *TEXTURES, *SIZES, *PLACES, *MOTIONS, *BACKGROUNDS)
# Flux sees two things and their background. Wan's things carry the background's word too: its cross-attention sees nothing
# but these tokens, and with one for the background learned to look at that one alone. An empty caption is all zero.
TOKENS = {"flux": 3, "wan": 2}
WIDTH = {"flux": 64, "wan": 4096}  # the host fixes Wan's
STRESS = {WIDTH["wan"]: 3.0}  # what Wan's text embedding hears most of is where things are
FILE = Path(__file__).parent / "weights" / "demo-text.safetensors"


def make_table(width: int, seed: int = 0) -> Tensor:
    """Word vectors [len(WORDS), width]: orthogonal, of length sqrt(width) / 2; of places STRESS[width] times that, where it says so."""
    random = torch.randn(width, len(WORDS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows: Tensor = torch.linalg.qr(random)[0].T * width**0.5 / 2
    rows[[WORDS.index(place) for place in PLACES]] *= STRESS.get(width, 1.0)
    return rows.float()


def load_table(family: str) -> Tensor:
    """The table [len(WORDS), WIDTH[family]] that the shipped weights were trained with."""
    with safe_open(FILE, "pt") as file:
        table: Tensor = file.get_tensor(family)
    return table.float()


def encode(family: str, scenes: Sequence[Scene | None], table: Tensor) -> Tensor:
    """Context [N, TOKENS[family], width] of scenes; None is the empty caption. The pooled vector is its mean over tokens."""
    rows = torch.zeros(len(scenes), TOKENS[family], len(WORDS))
    for n, scene in enumerate(scenes):
        if scene is None:
            continue
        for token, thing in enumerate(scene.things):
            for word in (thing.kind, thing.colour, thing.texture, thing.size, thing.place, thing.motion):
                rows[n, token, WORDS.index(word)] = 1.0
        rows[n, 2 if TOKENS[family] == 3 else slice(None), WORDS.index(scene.background)] = 1.0
    return rows @ table


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    save_file({family: make_table(width).bfloat16() for family, width in WIDTH.items()}, FILE)
    print(f"{len(WORDS)} words written to {FILE.name}")
