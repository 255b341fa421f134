"""What differs between model families: where the blocks are, and where in their arguments the tokens are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...cache_core import RecipeError

MODELS = {"Flux": "flux", "WAN21": "wan"}  # the host's model classes whose methods have numbers of their own
BlockArgs = Mapping[str, Any]
BlockKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Transformer blocks with the host's replace patches: lists of double blocks and of single blocks.

    Double blocks carry the parts in `parts` apart, in the order in which single blocks have them in one sequence. A network
    may leave out the blocks that its attributes `skips` name.
    """

    double: str
    single: str | None = None
    parts: tuple[str, ...] = ("txt", "img")
    skips: tuple[str, str] | None = None

    def keys(self, network: Any) -> list[BlockKey]:
        """Patch keys of all blocks that run, in calling order. Raises RecipeError if the loaded host has other names."""
        found: list[BlockKey] = []
        for n, (kind, attribute) in enumerate((("double_block", self.double), ("single_block", self.single))):
            if attribute is None:
                continue
            blocks = getattr(network, attribute, None)
            if blocks is None:
                raise RecipeError(
                    f"{type(network).__name__} of this ComfyUI has no '{attribute}', so its blocks cannot be reached. "
                    "Use the site guided, which works on any model."
                )
            left_out = getattr(network, self.skips[n]) if self.skips else ()
            found += [(kind, index) for index in range(len(blocks)) if index not in left_out]
        return found

    def tokens(self, args: BlockArgs, key: BlockKey) -> Tensor:
        """All tokens [B, L, D] in a block's arguments or results; may be the host's own tensor."""
        if key[0] == "single_block" or len(self.parts) == 1:
            tokens: Tensor = args["img"]
            return tokens
        return torch.cat([args[part] for part in self.parts], 1)

    def place(self, args: BlockArgs, key: BlockKey, tokens: Tensor) -> dict[str, Any]:
        """`args` with `tokens` [B, L, D] in them: the inverse of `tokens`."""
        if key[0] == "single_block" or len(self.parts) == 1:
            return {**args, "img": tokens}
        parts = tokens.split([args[part].shape[1] for part in self.parts], 1)  # type: ignore[no-untyped-call]
        return {**args, **dict(zip(self.parts, parts, strict=True))}

    def modulated(self, network: Any, args: BlockArgs) -> Tensor:
        """The first block's picture tokens [B, L, D] after norm and modulation: TeaCache's probe."""
        block, tokens, vec = getattr(network, self.double)[0], args["img"], args["vec"]
        if hasattr(block, "img_mod"):
            first, _ = block.img_mod(vec) if getattr(block, "modulation", True) else vec[0]
            found: Tensor = block.img_norm1(tokens) * (1 + first.scale) + first.shift
            return found
        timed: Tensor = vec  # Wan: TeaCache looks at the projected time embedding alone
        return timed


NETWORKS = {
    "Flux": Blocks("double_blocks", "single_blocks"),
    "Chroma": Blocks("double_blocks", "single_blocks", skips=("skip_mmdit", "skip_dit")),
    "HunyuanVideo": Blocks("double_blocks", "single_blocks", ("img", "txt")),
    "QwenImageTransformer2DModel": Blocks("transformer_blocks", None, ("img", "txt")),
    "LTXVModel": Blocks("transformer_blocks", None, ("img",)),
    "WanModel": Blocks("blocks", None, ("img",)),
}


def family_of(model: Any) -> str:
    """Family of a ModelPatcher's model by the host's class or one of its bases; "other" if we know none of them."""
    names = (base.__name__ for base in type(model.model).__mro__)
    return next((MODELS[name] for name in names if name in MODELS), "other")


def blocks_of(network: Any) -> Blocks | None:
    """How to reach the blocks of `network`, by its class or one of its bases; None if we do not know."""
    names = (base.__name__ for base in type(network).__mro__)
    return next((NETWORKS[name] for name in names if name in NETWORKS), None)
