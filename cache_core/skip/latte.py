"""Latte (arXiv:2401.03048) with or without skip branches: class labels to clips."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from .dit import Diffuser, Shape
from .layers import Attend, attend, line


class Latte(Diffuser):
    """Latte-skip of the class-to-video models: even blocks attend within a frame, odd ones along time; a branch joins pairs of them.

    The published one has 28 blocks in 14 pairs, 7 branches, 16 frames of 32 x 32.
    """

    def __init__(self, shape: Shape, attend: Attend = attend, layers: Any = nn, **factory: Any) -> None:
        self.depth = shape.depth // 2
        super().__init__(shape, attend, layers, **factory)
        self.register_buffer("temp_embed", line(shape.width, torch.arange(shape.frames))[None])
        self.temp_embed: Tensor

    @property
    def pairs(self) -> list[nn.ModuleList]:
        """Spatial and temporal blocks as the host's patches count them."""
        return [nn.ModuleList(self.blocks[2 * n : 2 * n + 2]) for n in range(self.depth)]

    def step(self, index: int, x: Tensor, args: Mapping[str, Any]) -> Tensor:
        """Tokens [B, F L, D] within each frame, then along time."""
        c, options = args["vec"], args["transformer_options"]
        spatial, temporal, frames = self.blocks[2 * index], self.blocks[2 * index + 1], self.shape.frames
        x = rearrange(x, "b (f l) d -> (b f) l d", f=frames)
        x = spatial(x, repeat(c, "b d -> (b f) d", f=frames), self.attend, options)
        x = rearrange(x, "(b f) l d -> (b l) f d", f=frames)
        if index == 0:
            x = x + self.temp_embed.to(x)
        x = temporal(x, repeat(c, "b d -> (b l) d", l=self.shape.side**2), self.attend, options)
        return rearrange(x, "(b l) f d -> b (f l) d", l=self.shape.side**2)

    def forward(
        self, x: Tensor, timesteps: Tensor, y: Tensor | None = None, transformer_options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The prediction [B, C, F, H, W] for latents x [B, C, F, H, W] at timesteps [B] in 0..1000 with labels y [B]."""
        count, frames = len(x), self.shape.frames
        c = self.condition(timesteps, y, x.dtype)
        tokens = self.x_embedder(rearrange(x, "b c f h w -> (b f) c h w")) + self.pos_embed.to(x)
        tokens = self.through(rearrange(tokens, "(b f) l d -> b (f l) d", f=frames), c, transformer_options or {})
        tokens = rearrange(tokens, "b (f l) d -> (b f) l d", f=frames)
        found = self.pictures(self.final_layer(tokens, repeat(c, "b d -> (b f) d", f=frames)))
        clips: Tensor = rearrange(found, "(b f) c h w -> b c f h w", b=count)
        return clips
