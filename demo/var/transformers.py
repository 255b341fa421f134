"""Trains the demo VARs: `python -m demo.var.transformers drafter` or `refiner`. Seeded, and resumes."""

import math
import random
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cache_core.var.load import load_vqvae
from cache_core.var.scales import Scales
from cache_core.var.transformer import VAR, Layout
from cache_core.var.vqvae import VQVAE

from . import vqvae
from .pictures import LABELS, SIDES, WEIGHTS, draw
from .training import Tasks, bfloat16, command, export, muon_and_adamw

SCALES = Scales(SIDES)
UNTOLD = 0.1  # share of the pictures whose class is not told, as VAR trains


def _layout(depth: int, width: int, heads: int) -> Layout:
    sizes = {"classes": len(LABELS), "latent": vqvae.LAYOUT.latent, "words": vqvae.LAYOUT.words}
    return Layout(depth, width, heads, SCALES, 4 * width, shared=True, **sizes)


LAYOUTS = {"drafter": _layout(5, 192, 3), "refiner": _layout(3, 64, 1)}


def file(name: str) -> Path:
    """Weights of drafter or refiner, or of one that was specialised to drafts of so many scales: drafter_5."""
    return WEIGHTS / f"demo-{name}.safetensors"


@torch.no_grad()
def initialise(model: VAR) -> None:
    """VAR's own: deviation sqrt(1 / 3 C), small gates and head, last layers divided by sqrt(2 depth)."""
    spread = math.sqrt(1 / model.layout.width / 3)
    for name, value in model.named_parameters():
        if value.ndim >= 2 and "scale_mul" not in name:
            nn.init.trunc_normal_(value, std=spread)
        elif "scale_mul" not in name:
            value.zero_()
    model.head.weight.mul_(0.02)
    model.head_nm.ada_lin[1].weight.mul_(0.5)
    for block in model.blocks:
        for layer in (block.attn.proj, block.ffn.fc2):
            layer.weight.div_(math.sqrt(2 * model.layout.depth))
        block.ada_gss[:, :, :2] = 1.0  # open gates: a short training has no time to open them
        block.ada_gss[:, :, 2:] = 0.0
    model.shared_ada_lin[1].weight.mul_(0.5)


class Taught:
    """Pictures as what a transformer learns from: classes, what it is shown, and the words it should say."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.codec: VQVAE = load_vqvae(vqvae.FILE)

    @torch.no_grad()
    def draw(self, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
        """Classes [B], shown tokens [B, L - 1, latent], words [B, L]; a tenth of the classes is not told."""
        pictures, classes = draw(rng, self.batch)
        features = self.codec.features(pictures).float()
        with bfloat16(False):
            words, _, _ = self.codec.quantize(SCALES, features)
            shown = self.codec.quantize.inputs(SCALES, words)
        told = torch.where(torch.rand(self.batch) < UNTOLD, len(LABELS), classes)
        return told, shown, torch.cat(words, 1)


class Plain:
    """A VAR by cross-entropy of all words."""

    def __init__(self, name: str, steps: int, seed: int, batch: int = 16, rate: float = 2e-3) -> None:
        torch.manual_seed(seed)
        self.name, self.steps, self.taught = name, steps, Taught(batch)
        self.network = VAR(LAYOUTS[name])
        initialise(self.network)
        self.optimisers = muon_and_adamw(self.network, rate)

    def loss(self, step: int, rng: random.Random) -> Tensor:
        classes, shown, words = self.taught.draw(rng)
        return nn.functional.cross_entropy(self.network(classes, shown).flatten(0, 1), words.flatten())

    def finish(self, about: dict[str, str]) -> None:
        export(file(self.name), self.network, about)


STEPS = {"drafter": 1800, "refiner": 12_000}
TASKS: Tasks = {name: (partial(Plain, name), STEPS[name]) for name in LAYOUTS}

if __name__ == "__main__":
    command("demo.var.transformers", __doc__, TASKS)
