"""Makes the demo VARs' codec: `python -m demo.var.vqvae`. Seeded, and resumes.

Its nets are linear, which the pictures of large plain things allow: they are the principal components of 8x8 squares, and the
quantiser, which is the published one, learns in a minute or two.
"""

import argparse
import random

import torch
from torch import Tensor, nn

from cache_core.var.scales import Scales
from cache_core.var.vqvae import VQVAE, Layout

from .pictures import SIDES, WEIGHTS, draw
from .training import adamw, bfloat16, export, train

FILE = WEIGHTS / "demo-vqvae.safetensors"
LAYOUT = Layout(widths=(), blocks=0, latent=24, words=512, counted=len(SIDES), patch=8)
SEEN = 1024  # pictures that it begins from
REVIVE = 25  # every so many steps, until half of the training, words that went unused begin anew


class Codec:
    """The VQVAE: reconstruction by absolute and squared error, and the quantiser's own loss."""

    name = "vqvae"

    def __init__(self, steps: int, seed: int, batch: int = 64, rate: float = 4e-3) -> None:
        torch.manual_seed(seed)
        self.steps, self.batch, self.scales = steps, batch, Scales(SIDES)
        self.network = VQVAE(LAYOUT)
        self._begin(draw(random.Random(seed), SEEN)[0])
        decoder = [*self.network.post_quant_conv.parameters(), *self.network.decoder.parameters()]
        self.optimisers = [adamw(self.network.quantize.parameters(), rate, decay=0.0), adamw(decoder, rate / 10, decay=0.0)]

    @torch.no_grad()
    def _begin(self, pictures: Tensor) -> None:
        """Encoder and decoder from the principal components of squares, words from what is to be coded, other layers as identities."""
        network, squares = self.network, nn.functional.pixel_unshuffle(2 * pictures - 1, LAYOUT.patch).movedim(1, -1).flatten(0, 2)
        mean = squares.mean(0)
        axes = torch.linalg.svd((squares - mean)[torch.randperm(len(squares))[:8192]], full_matrices=False)[2][: LAYOUT.latent]
        network.encoder.conv_in.weight.copy_(axes[..., None, None] / LAYOUT.patch)
        network.encoder.conv_in.bias.copy_(-(axes @ mean) / LAYOUT.patch)
        network.decoder.conv_in.weight.copy_(axes.T[..., None, None] * LAYOUT.patch)
        network.decoder.conv_in.bias.copy_(mean)
        for layer in (network.quant_conv, network.post_quant_conv, *network.quantize.quant_resi.qresi_ls):
            nn.init.dirac_(layer.weight)
            layer.bias.zero_()
        self._renew(network.features(pictures), torch.ones(LAYOUT.words, dtype=torch.bool))

    def loss(self, step: int, rng: random.Random) -> Tensor:
        pictures, _ = draw(rng, self.batch)
        with bfloat16(False):
            features, quantise = self.network.features(pictures), self.network.quantize
            words, coded, loss = quantise(self.scales, features)
            hits = torch.stack([found.flatten().bincount(minlength=LAYOUT.words) for found in words]).float()
            quantise.ema_vocab_hit_SV.lerp_(hits, 0.05)
            if step % REVIVE == 0 and step < self.steps // 2:
                self._renew(features, quantise.ema_vocab_hit_SV.sum(0) < 0.05)
            apart = self.network.paint(coded) - (2 * pictures - 1)
            return apart.abs().mean() + apart.square().mean() + loss

    @torch.no_grad()
    def _renew(self, features: Tensor, which: Tensor) -> None:
        """Set the words `which` [V] to tokens that were to be coded, drawn from all scales but the first alike."""
        rest, pool = features.detach().clone(), []
        for scale, side in enumerate(SIDES):
            seen = self.network.quantize.shrunk(self.scales, scale, rest)
            pool.append(seen.flatten(0, 1)[torch.randperm(seen.shape[0] * seen.shape[1])[: LAYOUT.words // 4]])
            map_of = seen.transpose(1, 2).unflatten(2, (side, side))
            rest = rest - nn.functional.interpolate(map_of, (SIDES[-1],) * 2, mode="bicubic")
        tokens = torch.cat(pool[1:])
        self.network.quantize.embedding.weight[which] = tokens[torch.randperm(len(tokens))[: int(which.sum())]]

    def finish(self, about: dict[str, str]) -> None:
        export(FILE, self.network, about)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo.var.vqvae", description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--every", type=int, default=40, help="steps between saves")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(Codec(options.steps, options.seed), options.seed, options.every)
