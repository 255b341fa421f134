"""Trains the demo VARs' codec: `python -m demo.var.vqvae`. Seeded, and resumes."""

import argparse
import random

import torch
from torch import Tensor

from cache_core.var.scales import Scales
from cache_core.var.vqvae import VQVAE, Layout

from .pictures import SIDES, WEIGHTS, draw
from .training import adamw, bfloat16, export, train

FILE = WEIGHTS / "demo-vqvae.safetensors"
LAYOUT = Layout(widths=(48, 64), blocks=1, latent=16, words=512, counted=len(SIDES), patch=4)
PLAIN = 150  # first steps, without quantisation; then the codebook begins as a draw from what it is to hold
REVIVE = 40  # every so many steps, until half of the training, words that went unused begin anew


class Codec:
    """The VQVAE: reconstruction by absolute and squared error, and the quantiser's own loss."""

    name = "vqvae"

    def __init__(self, steps: int, seed: int, batch: int = 32, rate: float = 2e-3) -> None:
        torch.manual_seed(seed)
        self.steps, self.batch, self.scales = steps, batch, Scales(SIDES)
        self.network = VQVAE(LAYOUT)
        self.optimisers = [adamw(self.network.parameters(), rate)]

    def loss(self, step: int, rng: random.Random) -> Tensor:
        pictures, _ = draw(rng, self.batch)
        features = self.network.features(pictures).float()
        with bfloat16(False):
            coded, loss = (features, features.square().mean() * 0.01) if step < PLAIN else self._quantised(step, features)
        apart = self.network.paint(coded).float() - (2 * pictures - 1)
        return apart.abs().mean() + apart.square().mean() + loss

    def _quantised(self, step: int, features: Tensor) -> tuple[Tensor, Tensor]:
        if step == PLAIN:
            self._renew(features, torch.ones(LAYOUT.words, dtype=torch.bool))
        quantise = self.network.quantize
        words, coded, loss = quantise(self.scales, features)
        hits = torch.stack([found.flatten().bincount(minlength=LAYOUT.words) for found in words]).float()
        quantise.ema_vocab_hit_SV.lerp_(hits, 0.05)
        if step % REVIVE == 0 and step < self.steps // 2:
            self._renew(features, quantise.ema_vocab_hit_SV.sum(0) < 0.05)
        return coded, loss

    @torch.no_grad()
    def _renew(self, features: Tensor, which: Tensor) -> None:
        """Set the words `which` [V] to tokens that were to be coded, drawn from all scales alike."""
        rest, tokens = features.detach().clone(), []
        for scale in range(len(self.scales)):
            seen = self.network.quantize.shrunk(self.scales, scale, rest)
            tokens.append(seen.flatten(0, 1))
            rest = rest - torch.nn.functional.interpolate(seen.transpose(1, 2).unflatten(2, [SIDES[scale]] * 2), (SIDES[-1],) * 2)
        tokens = [part[torch.randint(len(part), (LAYOUT.words // 4,))] for part in tokens[2:]]
        pool = torch.cat(tokens)
        count = int(which.sum())
        self.network.quantize.embedding.weight[which] = pool[torch.randperm(len(pool))[:count]]

    def finish(self, about: dict[str, str]) -> None:
        export(FILE, self.network, about)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo.var.vqvae", description=__doc__)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=int, default=100, help="steps between saves")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(Codec(options.steps, options.seed), options.seed, options.every)
