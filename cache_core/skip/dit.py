"""DiT (arXiv:2212.09748) with or without skip branches: class labels to pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .branch import branches, fused
from .layers import Attend, Block, Final, Labels, Patches, Timesteps, attend, grid

Patch = Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a DiT or, with `frames`, of a Latte. `classes` counts the one for no label, 0 is a model without labels.

    With `text`, the width of a text encoder's tokens, it is a Latte for text: its latents may have other sizes than it was trained on.
    """

    depth: int
    width: int
    heads: int
    channels: int
    out: int
    classes: int
    side: int  # patches along a side of the latent
    inner: int  # width inside the MLPs
    patch: int = 2
    skips: bool = True
    frames: int = 0
    text: int = 0


class Trunk(nn.Module):
    """Blocks in a row that may be replaced as the host replaces its own, each deep one behind its branch."""

    depth: int  # blocks as the host's patches count them
    shape: Shape
    attend: Attend
    skips: nn.ModuleList

    @property
    def patch_size(self) -> int:
        """Latent pixels along a side of a token."""
        return self.shape.patch

    def through(self, x: Tensor, c: Tensor, options: Mapping[str, Any], **more: Any) -> Tensor:
        """Tokens [B, L, D] under the condition c [B, ...] through all blocks; `more` is handed to each of them.

        The host's replace patches act on a block and its branch together. A block that a patch leaves out hands its input to its
        partner's branch.
        """
        outputs: dict[int, Tensor] = {}
        replace: Mapping[Any, Patch] = options.get("patches_replace", {}).get("dit", {})
        for index in range(self.depth):

            def run(args: Mapping[str, Any], index: int = index) -> dict[str, Tensor]:
                return {"img": self.step(index, fused(self.skips, index, self.depth, args["img"], outputs), args)}

            args = {"img": x, "vec": c, **more, "transformer_options": options}
            patch = replace.get(("double_block", index))
            x = (run(args) if patch is None else patch(args, {"original_block": run}))["img"]
            if index < self.depth // 2:
                outputs[index] = x
        return x

    def step(self, index: int, x: Tensor, args: Mapping[str, Any]) -> Tensor:
        """One block, as the host's patches count them, of tokens x [B, L, D]; what else it takes is in `args`."""
        raise NotImplementedError


class Diffuser(Trunk):
    """What DiT and Latte by class have in common: patches in, blocks, patches out."""

    def __init__(self, shape: Shape, attend: Attend, layers: Any, **factory: Any) -> None:
        super().__init__()
        self.shape, self.attend = shape, attend
        width = shape.width
        self.x_embedder = Patches(shape.channels, width, shape.patch, layers, **factory)
        self.t_embedder = Timesteps(width, layers, **factory)
        self.y_embedder = Labels(shape.classes, width, layers, **factory) if shape.classes else None
        self.register_buffer("pos_embed", grid(width, shape.side))
        self.pos_embed: Tensor
        self.blocks = nn.ModuleList(Block(width, shape.heads, shape.inner, layers, **factory) for _ in range(shape.depth))
        self.skips = branches(self.depth if shape.skips else 0, width, layers=layers, **factory)
        self.final_layer = Final(width, shape.patch**2 * shape.out, layers, **factory)

    def condition(self, timesteps: Tensor, labels: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The condition [B, D] of timesteps [B] in 0..1000 and labels [B]; None is no label."""
        c: Tensor = self.t_embedder(timesteps, dtype)
        if self.y_embedder is None:
            return c
        if labels is None:
            labels = torch.full_like(timesteps, self.shape.classes - 1, dtype=torch.long)
        embedded: Tensor = self.y_embedder(labels.long().flatten(), dtype)
        return c + embedded

    def pictures(self, tokens: Tensor) -> Tensor:
        """Pictures [B, C, H, W] of the final layer's patches [B, L, P * P * out]; of mean and variance the mean."""
        shape = self.shape
        found: Tensor = rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=shape.side, p=shape.patch, q=shape.patch, c=shape.out)
        return found[:, : shape.channels]

    @torch.no_grad()
    def start(self) -> None:
        """Initialise as DiT's authors do: Xavier matrices, gates and last layer at zero."""
        for name, value in self.named_parameters():
            if "skips." in name:
                continue
            if value.ndim < 2 or "adaLN" in name or "final_layer" in name:
                nn.init.zeros_(value)
            elif "t_embedder" in name or "y_embedder" in name:
                nn.init.normal_(value, std=0.02)
            else:
                nn.init.xavier_uniform_(value.view(len(value), -1))
        for branch in self.skips:
            branch.start()  # type: ignore[operator]


class DiT(Diffuser):
    """DiT-XL/2-skip and its like. The published one has 28 blocks, 14 branches, width 1152, 16 heads and 1001 classes."""

    def __init__(self, shape: Shape, attend: Attend = attend, layers: Any = nn, **factory: Any) -> None:
        self.depth = shape.depth
        super().__init__(shape, attend, layers, **factory)

    def step(self, index: int, x: Tensor, args: Mapping[str, Any]) -> Tensor:
        result: Tensor = self.blocks[index](x, args["vec"], self.attend, args["transformer_options"])
        return result

    def forward(
        self, x: Tensor, timesteps: Tensor, y: Tensor | None = None, transformer_options: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The prediction [B, C, H, W] for latents x [B, C, H, W] at timesteps [B] in 0..1000 with labels y [B]."""
        c = self.condition(timesteps, y, x.dtype)
        tokens = self.x_embedder(x) + self.pos_embed.to(x)
        return self.pictures(self.final_layer(self.through(tokens, c, transformer_options or {}), c))
