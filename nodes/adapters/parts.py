"""The branches of each family's blocks: which modules make them, and which run for them alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...cache_core import Branch, Recipe

CORE = "attention core"  # the name of the attention itself, between the layers before and after it: the host's override reaches it
ATTENTION, CROSS, MLP = Branch.ATTENTION, Branch.CROSS, Branch.MLP


@dataclass(frozen=True, slots=True)
class Part:
    """One branch of a block, or two that the block makes in one.

    `outputs` name modules, or CORE, and the tokens that each of their results is added to. Where the branch is skipped, the
    modules `idle` and the attention core, if `core`, work for nobody: linear layers answer with zeros, norms with their input.
    """

    branches: frozenset[Branch]
    outputs: tuple[tuple[str, tuple[str, ...]], ...]
    idle: tuple[str, ...] = ()
    core: bool = False

    @property
    def branch(self) -> Branch:
        """The branch that names it, and whose policy counts."""
        return ATTENTION if ATTENTION in self.branches else next(iter(self.branches))

    def missing(self, block: nn.Module) -> list[str]:
        """Modules that the loaded host's block lacks."""
        known = {name for name, _ in block.named_modules()}
        return [name for name in (*(name for name, _ in self.outputs), *self.idle) if name not in known | {CORE}]


def _module(branch: Branch, name: str, *tokens: str) -> Part:
    return Part(frozenset({branch}), ((name, tokens or ("img",)),))


_JOINT = Part(
    frozenset({ATTENTION}),
    (("img_attn.proj", ("img",)), ("txt_attn.proj", ("txt",))),
    ("img_attn.qkv", "txt_attn.qkv", "img_attn.norm", "txt_attn.norm"),
    core=True,
)
_MLPS = Part(frozenset({MLP}), (("img_mlp", ("img",)), ("txt_mlp", ("txt",))))
_FUSED = Part(frozenset({ATTENTION, MLP}), (("linear2", ("img",)),), ("linear1", "norm"), core=True)
_CORE = Part(frozenset({ATTENTION}), ((CORE, ("img",)),))

DOUBLE, SINGLE = (_JOINT, _MLPS), (_FUSED, _CORE)  # Flux and those who took its blocks
BRANCHES: dict[str, dict[str, tuple[Part, ...]]] = {
    "Flux": {"double_block": DOUBLE, "single_block": SINGLE},
    "Chroma": {"double_block": DOUBLE, "single_block": SINGLE},
    "HunyuanVideo": {"double_block": DOUBLE, "single_block": SINGLE},
    "QwenImageTransformer2DModel": {"double_block": (_module(ATTENTION, "attn", "img", "txt"), _MLPS)},
    "LTXVModel": {"double_block": (_module(ATTENTION, "attn1"), _module(CROSS, "attn2"), _module(MLP, "ff"))},
    "WanModel": {"double_block": (_module(ATTENTION, "self_attn"), _module(CROSS, "cross_attn"), _module(MLP, "ffn"))},
}


def parts_of(network: Any, kind: str, recipe: Recipe) -> tuple[Part, ...]:
    """The parts of blocks of this `kind` that the recipe switches on; where one holds two branches, both have to be.

    A block that makes two branches in one can be skipped as a whole; with attention alone switched on, its core is.
    """
    names = (base.__name__ for base in type(network).__mro__)
    found = next((BRANCHES[name] for name in names if name in BRANCHES), {})
    taken: list[Part] = []
    for part in sorted(found.get(kind, ()), key=lambda part: -len(part.branches)):
        new = not any(part.branches & other.branches for other in taken)
        if part.branches <= recipe.branches and new:
            taken.append(part)
    return tuple(taken)


def joint_of(network: Any, kinds: Sequence[str], recipe: Recipe) -> tuple[int, ...]:
    """Which of blocks of these `kinds`, counted in calling order, make several of the recipe's branches in one."""
    found = {kind: any(len(part.branches) > 1 for part in parts_of(network, kind, recipe)) for kind in kinds}
    return tuple(index for index, kind in enumerate(kinds) if found[kind])
