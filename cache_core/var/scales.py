"""The scales of a picture's token pyramid: side lengths, and where each scale begins and ends in the sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import CacheError

SIDES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)  # VAR at 256 pixels (arXiv 2404.02905, its patch_nums)
SIDES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)  # VAR-d36 at 512 pixels


@dataclass(frozen=True)
class Scales:
    """Token maps from coarse to fine; map k has `sides[k]` x `sides[k]` tokens."""

    sides: tuple[int, ...] = SIDES_256

    def __post_init__(self) -> None:
        if len(self.sides) < 2 or self.sides[0] < 1 or list(self.sides) != sorted(set(self.sides)):
            raise CacheError(f"The scales of a VAR are two or more sides that grow from one to the next; found {self.sides}.")

    def __len__(self) -> int:
        return len(self.sides)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Tokens up to and with each scale; 1, 5, 14, 30, ... 680 for SIDES_256."""
        return tuple(sum(side * side for side in self.sides[: n + 1]) for n in range(len(self.sides)))

    @property
    def tokens(self) -> int:
        """Tokens of a whole picture."""
        return self.ends[-1]

    def start(self, scale: int) -> int:
        """First token of a scale."""
        return self.ends[scale - 1] if scale else 0

    def span(self, scale: int) -> slice:
        """Tokens of a scale."""
        return slice(self.start(scale), self.ends[scale])

    def past(self, scale: int) -> float:
        """How far down the pyramid a scale lies, 0..1."""
        return scale / (len(self.sides) - 1)

    def levels(self) -> list[int]:
        """The scale of each token."""
        return [n for n, side in enumerate(self.sides) for _ in range(side * side)]


def scales_of(levels: Sequence[int] | None, count: int, tokens: int) -> Scales:
    """The scales of a model with `count` of them and `tokens` in all; `levels` is its table of each token's scale, if stored."""
    if levels is None:
        known = next((sides for sides in (SIDES_256, SIDES_512) if Scales(sides).tokens == tokens and len(sides) == count), None)
        if known is None:
            raise CacheError(
                f"This VAR has {tokens} tokens in {count} scales and does not say how they are divided ('lvl_1L' is missing). "
                "Save it with its buffers."
            )
        return Scales(known)
    sides = [round(list(levels).count(n) ** 0.5) for n in range(count)]
    found = Scales(tuple(sides))
    if found.levels() != list(levels) or found.tokens != tokens:
        raise CacheError(f"The scales in this VAR's table ('lvl_1L') are not square maps, coarse to fine, with {tokens} tokens in all.")
    return found
