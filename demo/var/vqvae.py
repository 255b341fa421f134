"""Makes the demo VARs' codec: `python -m demo.var.vqvae quantiser`, then `decoder`. Seeded, and resumes.

The encoder is linear, the principal components of 8x8 squares; the quantiser learns to code what it says, and the decoder, which the
transformers never see, learns to paint from that. Both of these are the published ones, small.
"""

import random

import torch
from torch import Tensor, nn

from cache_core.var.load import load_vqvae
from cache_core.var.scales import Scales
from cache_core.var.vqvae import VQVAE, Layout

from .pictures import SIDES, WEIGHTS, draw
from .training import Tasks, adamw, bfloat16, command, export

FILE = WEIGHTS / "demo-vqvae.safetensors"
LAYOUT = Layout(widths=(48, 64), blocks=1, latent=24, words=512, counted=len(SIDES), patch=4, linear=True)
SCALES = Scales(SIDES)
SEEN = 1024  # pictures that it begins from
REVIVE = 25  # every so many steps, until half of the training, words that went unused begin anew


class Quantiser:
    """Codebook and Phi, by the published loss on features that stay as they are."""

    name = "vqvae-quantiser"

    def __init__(self, steps: int, seed: int, batch: int = 32, rate: float = 4e-3) -> None:
        torch.manual_seed(seed)
        self.steps, self.batch = steps, batch
        self.network = VQVAE(LAYOUT)
        self._begin(draw(random.Random(seed), SEEN)[0])
        self.optimisers = [adamw(self.network.quantize.parameters(), rate, decay=0.0)]

    @torch.no_grad()
    def _begin(self, pictures: Tensor) -> None:
        """Encoder from the principal components of squares, words from what is to be coded, other layers as identities."""
        network, side = self.network, LAYOUT.shrink
        squares = nn.functional.pixel_unshuffle(2 * pictures - 1, side).movedim(1, -1).flatten(0, 2)
        mean = squares.mean(0)
        axes = torch.linalg.svd((squares - mean)[torch.randperm(len(squares))[:8192]], full_matrices=False)[2][: LAYOUT.latent]
        network.encoder.conv_in.weight.copy_(axes[..., None, None] / side)
        network.encoder.conv_in.bias.copy_(-(axes @ mean) / side)
        for layer in (network.quant_conv, network.post_quant_conv, *network.quantize.quant_resi.qresi_ls):
            nn.init.dirac_(layer.weight)
            layer.bias.zero_()
        self._renew(network.features(pictures), torch.ones(LAYOUT.words, dtype=torch.bool))

    def loss(self, step: int, rng: random.Random) -> Tensor:
        pictures, _ = draw(rng, self.batch)
        with bfloat16(False):
            features, quantise = self.network.features(pictures).detach(), self.network.quantize
            words, _, loss = quantise(SCALES, features)
            hits = torch.stack([found.flatten().bincount(minlength=LAYOUT.words) for found in words]).float()
            quantise.ema_vocab_hit_SV.lerp_(hits, 0.05)
            if step % REVIVE == 0 and step < self.steps // 2:
                self._renew(features, quantise.ema_vocab_hit_SV.sum(0) < 0.02)
            return 10 * loss

    @torch.no_grad()
    def _renew(self, features: Tensor, which: Tensor) -> None:
        """Set the words `which` [V] to tokens that were to be coded, drawn from all scales but the first alike."""
        rest, pool = features.detach().clone(), []
        for scale, side in enumerate(SIDES):
            seen = self.network.quantize.shrunk(SCALES, scale, rest)
            pool.append(seen.flatten(0, 1)[torch.randperm(seen.shape[0] * seen.shape[1])[: LAYOUT.words // 4]])
            map_of = seen.transpose(1, 2).unflatten(2, (side, side))
            rest = rest - nn.functional.interpolate(map_of, (SIDES[-1],) * 2, mode="bicubic")
        tokens = torch.cat(pool[1:])
        self.network.quantize.embedding.weight[which] = tokens[torch.randperm(len(tokens))[: int(which.sum())]]

    def finish(self, about: dict[str, str]) -> None:
        export(FILE, self.network, about)


class Painter:
    """The decoder, by absolute and squared error from quantised features."""

    name = "vqvae-decoder"

    def __init__(self, steps: int, seed: int, batch: int = 32, rate: float = 2e-3) -> None:
        torch.manual_seed(seed)
        self.steps, self.batch = steps, batch
        self.network = load_vqvae(FILE)
        self.network.decoder.requires_grad_(True)
        self.optimisers = [adamw(self.network.decoder.parameters(), rate)]

    def loss(self, step: int, rng: random.Random) -> Tensor:
        pictures, _ = draw(rng, self.batch)
        with bfloat16(False), torch.no_grad():
            coded = self.network.quantize(SCALES, self.network.features(pictures))[1]
        apart = self.network.paint(coded).float() - (2 * pictures - 1)
        return apart.abs().mean() + apart.square().mean()

    def finish(self, about: dict[str, str]) -> None:
        export(FILE, self.network, about)


TASKS: Tasks = {"quantiser": (Quantiser, 150), "decoder": (Painter, 3000)}

if __name__ == "__main__":
    command("demo.var.vqvae", __doc__, TASKS)
