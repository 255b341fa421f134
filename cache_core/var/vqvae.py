"""VAR's picture codec: a convolutional VQVAE whose code is a pyramid of token maps (arXiv 2404.02905)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from .convolutions import Decoder, Encoder, Linear, widths_of
from .quantizer import Quantizer
from .scales import Scales


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of a VQVAE; by default those of vae_ch160v4096z32."""

    widths: tuple[int, ...] = (160, 160, 320, 320, 640)  # of each level, the finest first
    blocks: int = 2  # of each level of the encoder; the decoder has one more
    latent: int = 32
    words: int = 4096
    phis: int = 4
    counted: int = 10  # scales whose use of words is stored
    patch: int = 1  # pixels of the side of a square that the nets see as one pixel of many colours
    linear: bool = False  # whether the encoder is a linear map of squares

    @property
    def shrink(self) -> int:
        """Pixels of a picture's side for each one of the features'."""
        return self.patch << (len(self.widths) - 1)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "Layout":
        """The sizes found in weights with the published keys."""
        widths, blocks = widths_of(weights)
        words, latent = weights["quantize.embedding.weight"].shape
        phis = sum(key.startswith("quantize.quant_resi.qresi_ls.") and key.endswith(".bias") for key in weights)
        counted, patch = len(weights["quantize.ema_vocab_hit_SV"]), math.isqrt(weights["decoder.conv_out.weight"].shape[0] // 3)
        return cls(widths, blocks, latent, words, phis, counted, patch, "encoder.conv_out.weight" not in weights)


class VQVAE(nn.Module):
    """Pictures [B, 3, H, W] in 0..1 to words of each scale and back; keys as in vae_ch160v4096z32.

    No published file has a `patch` above 1 or a linear encoder: these make a codec small enough to train in minutes.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout, colours = layout, 3 * layout.patch**2
        self._square = layout.shrink if layout.linear else layout.patch  # that the encoder sees as one pixel
        nets = (layout.widths, layout.blocks, layout.latent, colours)
        self.encoder = Linear(layout.latent, 3 * self._square**2) if layout.linear else Encoder(*nets)
        self.decoder = Decoder(*nets)
        self.quant_conv, self.post_quant_conv = (nn.Conv2d(layout.latent, layout.latent, 3, padding=1) for _ in range(2))
        self.quantize = Quantizer(layout.words, layout.latent, layout.phis, layout.counted)

    def features(self, pictures: Tensor) -> Tensor:
        """Features [B, C, H / shrink, W / shrink] before quantisation."""
        y: Tensor = self.quant_conv(self.encoder(nn.functional.pixel_unshuffle(2 * pictures - 1, self._square)))
        return y

    def encode(self, pictures: Tensor, scales: Scales) -> list[Tensor]:
        """Words [B, side^2] of each scale; the pictures' side is `shrink` times the finest scale's."""
        words: list[Tensor] = self.quantize(scales, self.features(pictures).float())[0]
        return words

    def paint(self, features: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], about -1..1, of summed token maps [B, C, S, S]."""
        return nn.functional.pixel_shuffle(self.decoder(self.post_quant_conv(features)), self.layout.patch)

    def decode(self, features: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in 0..1 of summed token maps [B, C, S, S]."""
        return ((self.paint(features) + 1) / 2).clamp(0, 1)
