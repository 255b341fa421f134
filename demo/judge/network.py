"""The judge's network: four convolution stages over a 64x64 picture, the last a window on each of the 3x3 places."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ..world import BACKGROUNDS, COLOURS, KINDS, PLACES, SIZES, TEXTURES, Scene

FILE = Path(__file__).parents[1] / "weights" / "demo-judge.safetensors"
NONE = len(KINDS)  # the seventh kind: nothing stands there
READS = {"kind": (*KINDS, "none"), "colour": tuple(COLOURS), "texture": TEXTURES, "size": tuple(SIZES)}
WIDTHS = (32, 64, 96, 128)  # channels of the stages
CODE = 24  # features of a place, and of the picture as a whole
UNREAD = -100  # target of what cannot be read because nothing stands there


class Judge(nn.Module):
    """Reads what stands at each place, and the background, from linear heads on (9 + 1) * CODE features."""

    def __init__(self) -> None:
        """Make it untrained."""
        super().__init__()
        one, two, three, four = WIDTHS
        self.trunk = nn.Sequential(_stage(3, one, 5, 2, 2), _stage(one, two, 3, 2, 1), _stage(two, three, 3, 1, 1))
        # 16x16 cells of 4 pixels: windows of 6 cells at 0, 5 and 10 lie centred, within a pixel, on the places.
        self.window = _stage(three, four, 6, 5, 0)
        self.place = nn.Linear(four, CODE)
        self.whole = nn.Linear(three, CODE)
        self.heads = nn.ModuleDict({name: nn.Linear(CODE, len(words)) for name, words in READS.items()})
        self.background = nn.Linear(CODE, len(BACKGROUNDS))

    def features(self, pictures: Tensor) -> Tensor:
        """Give penultimate features [N, 9 + 1, CODE], places then whole, of pictures [N, 3, 64, 64] in 0..1."""
        cells = self.trunk(pictures - 0.5)
        places = self.place(rearrange(self.window(cells), "n c row column -> n (row column) c"))
        return nn.functional.silu(torch.cat([places, self.whole(cells.mean((2, 3)))[:, None]], 1))

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Give logits of pictures [N, 3, 64, 64]: of READS' names [N, 9, words], and "background" [N, 5]."""
        codes = self.features(pictures)
        logits = {name: head(codes[:, :-1]) for name, head in self.heads.items()}
        return logits | {"background": self.background(codes[:, -1])}


def _stage(inside: int, outside: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.SiLU())


def targets(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """List what `Judge` should read: indices of READS' names [N, 9], UNREAD where none stands, and "background" [N]."""
    found = {name: torch.full((len(scenes), len(PLACES)), UNREAD) for name in READS}
    found["kind"].fill_(NONE)
    for n, scene in enumerate(scenes):
        for thing in scene.things:
            for name, words in READS.items():
                found[name][n, PLACES.index(thing.place)] = words.index(getattr(thing, name))
    grounds = list(BACKGROUNDS)
    return found | {"background": torch.tensor([grounds.index(scene.background) for scene in scenes])}
