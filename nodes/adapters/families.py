"""What differs between model families: where the blocks are, and where in their arguments the tokens are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...cache_core import RecipeError

MODELS = {"Flux": "flux", "WAN21": "wan"}  # the host's model classes whose methods have numbers of their own
BlockArgs = Mapping[str, Any]
BlockKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Transformer blocks with the host's replace patches: lists of double blocks and of single blocks.

    Double blocks carry the parts in `parts` apart, in the order in which single blocks have them in one sequence. A network
    may leave out the blocks that its attributes `skips` name, and make a time embedding by the module `embedding`. Where it is
    not called through the host's wrappers (`wraps`), the model is.
    """

    double: str
    single: str | None = None
    parts: tuple[str, ...] = ("txt", "img")
    skips: tuple[str, str] | None = None
    embedding: str | None = None
    wraps: bool = True

    def keys(self, network: Any) -> list[BlockKey]:
        """Patch keys of all blocks that run, in calling order. Raises RecipeError if the loaded host has other names."""
        found: list[BlockKey] = []
        for n, (kind, attribute) in enumerate((("double_block", self.double), ("single_block", self.single))):
            if attribute is None:
                continue
            blocks = getattr(network, attribute, None)
            if blocks is None:
                raise RecipeError(f"{type(network).__name__} of this ComfyUI has no '{attribute}', so its blocks cannot be reached.")
            left_out = getattr(network, self.skips[n], ()) if self.skips else ()
            found += [(kind, index) for index in range(len(blocks)) if index not in left_out]
        return found

    def block(self, network: Any, key: BlockKey) -> nn.Module:
        """The block itself."""
        found: nn.Module = getattr(network, self.double if key[0] == "double_block" else str(self.single))[key[1]]
        return found

    def unlike(self, args: BlockArgs, key: BlockKey) -> str | None:
        """Why a block's arguments are not the ones we know, or None if they are."""
        wrong = [name for name in self.names(key) if not isinstance(args.get(name), Tensor)]
        if not wrong:
            return None
        return f"Block {key[1]} of this ComfyUI was called with {', '.join(args)}, and a tensor {' and '.join(wrong)} was expected."

    def names(self, key: BlockKey) -> tuple[str, ...]:
        """The arguments that hold a block's tokens."""
        return ("img",) if key[0] == "single_block" else self.parts

    def tokens(self, args: BlockArgs, key: BlockKey) -> Tensor:
        """All tokens [B, L, D] in a block's arguments or results; may be the host's own tensor."""
        names = self.names(key)
        if len(names) == 1:
            tokens: Tensor = args[names[0]]
            return tokens
        return torch.cat([args[name] for name in names], 1)

    def copied(self, args: BlockArgs, key: BlockKey) -> Tensor:
        """The same tokens, and never the host's own tensor, which it may write into."""
        tokens = self.tokens(args, key)
        return tokens.clone() if len(self.names(key)) == 1 else tokens

    def place(self, args: BlockArgs, key: BlockKey, tokens: Tensor) -> dict[str, Any]:
        """`args` with `tokens` [B, L, D] in them: the inverse of `tokens`."""
        names = self.names(key)
        parts = tokens.split([args[name].shape[1] for name in names], 1)  # type: ignore[no-untyped-call]
        return {**args, **dict(zip(names, parts, strict=True))}

    def picture(self, args: BlockArgs, key: BlockKey) -> slice:
        """Where among all tokens those of the picture are."""
        names = self.names(key)
        before: int = sum([args[name].shape[1] for name in names[: names.index("img")]])
        return slice(before, before + args["img"].shape[1])

    @property
    def text(self) -> Literal["before", "after"] | None:
        """Where among all tokens of a block those of a text are, from the picture's; None if blocks do not carry it along."""
        return None if len(self.parts) == 1 else "before" if self.parts[0] == "txt" else "after"

    def embedded(self, network: Any, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        """The time embedding [B, L, D] that Wan projects to its blocks' modulations: TeaCache's probe without ret_steps."""
        from comfy.ldm.wan.model import sinusoidal_embedding_1d

        assert self.embedding is not None, "inside.unreachable has seen to it"
        waves = sinusoidal_embedding_1d(network.freq_dim, timestep.flatten()).to(dtype)
        embedded: Tensor = network.get_submodule(self.embedding)(waves)
        return embedded.reshape(len(timestep), -1, embedded.shape[-1])

    def modulated(self, network: Any, args: BlockArgs) -> Tensor:
        """The first block's picture tokens [B, L, D] after norm and modulation: TeaCache's probe."""
        block, tokens, vec = getattr(network, self.double)[0], args["img"], args["vec"]
        if isinstance(getattr(block, "img_mod", None), nn.Sequential):  # Qwen-Image: shift, scale and gate, twice, side by side
            shift, scale = (part[: len(tokens), None] for part in block.img_mod(vec).chunk(6, -1)[:2])
            mixed: Tensor = block.img_norm1(tokens) * (1 + scale) + shift
            return mixed
        if hasattr(block, "img_norm1"):  # Flux; Flux 2 and Chroma make the modulation of all blocks outside of them
            first, _ = block.img_mod(vec) if getattr(block, "modulation", True) else vec[0]
            rows = _rows(args, first.scale.shape[1])
            found: Tensor = block.img_norm1(tokens) * (1 + first.scale[:, rows])
            return found.add_(first.shift[:, rows])
        timed: Tensor = vec  # Wan: with ret_steps TeaCache looks at the projected time embedding alone
        return timed


def _rows(args: BlockArgs, count: int) -> slice | Tensor:
    """Which row of a modulation [B, count, D] each of the picture's tokens takes: the only one, or of two its own, [L].

    A second one is of another noise level. HunyuanVideo tells where the first frame is given and clean; in Flux 2 the tokens of
    reference pictures, behind the picture's own, may be of level 0.
    """
    if count == 1:
        return slice(None)
    tokens: Tensor = args["img"]
    rows = torch.zeros(tokens.shape[1], dtype=torch.long, device=tokens.device)
    given = sum(args.get("transformer_options", {}).get("reference_image_num_tokens", ()))
    for start, stop, row in args.get("modulation_dims_img") or [(tokens.shape[1] - given, None, 1)]:
        rows[start:stop] = row
    return rows


NETWORKS = {
    "Flux": Blocks("double_blocks", "single_blocks"),
    "Chroma": Blocks("double_blocks", "single_blocks", skips=("skip_mmdit", "skip_dit")),
    "HunyuanVideo": Blocks("double_blocks", "single_blocks", ("img", "txt")),
    "QwenImageTransformer2DModel": Blocks("transformer_blocks", None, ("img", "txt")),
    "LTXVModel": Blocks("transformer_blocks", None, ("img",)),
    "DiT": Blocks("blocks", None, ("img",)),
    "Latte": Blocks("pairs", None, ("img",)),
    "LatteT2V": Blocks("pairs", None, ("img",)),
    "HunYuanDiT": Blocks("blocks", None, ("img",), wraps=False),
    "WanModel": Blocks("blocks", None, ("img",), embedding="time_embedding"),
}


def family_of(model: Any) -> str:
    """Family of a ModelPatcher's model by the host's class or one of its bases; "other" if we know none of them."""
    names = (base.__name__ for base in type(model.model).__mro__)
    return next((MODELS[name] for name in names if name in MODELS), "other")


def blocks_of(network: Any) -> Blocks | None:
    """How to reach the blocks of `network`, by its class or one of its bases; None if we do not know."""
    for base in type(network).__mro__:
        if base.__name__ in NETWORKS:
            return NETWORKS[base.__name__]
    return None
