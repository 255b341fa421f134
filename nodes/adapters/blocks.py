"""The sites STACK and BLOCK: skip spans of transformer blocks by the host's block patches, laid over one call at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...cache_core import Case, Place, Probe, Run, Site
from ...cache_core.macs import Meter
from .families import BlockArgs, BlockKey, Blocks

Patch = Callable[[BlockArgs, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(slots=True)
class Call:
    """One call of the network on its way through the blocks, with the conditions `keys` batched in equal parts."""

    run: Run
    meter: Meter
    keys: list[Any]
    latent: Tensor  # the network's input [R * B, C, ...]
    timestep: Tensor  # its second [R * B] or [R * B, T]
    first: Tensor | None = None  # the picture's tokens [R * B, L, D] before the first block
    shown: Tensor | None = None  # what the first block's arguments show the policy
    picture: slice = field(default_factory=lambda: slice(None))  # where among all tokens the picture's are
    reached: bool = False  # whether the host has called the first block's patch
    lost: bool = False  # whether a block's arguments turned out not to be the ones we know
    _probes: list[Tensor | None] | None = None

    def begin(self, blocks: Blocks, network: Any, args: BlockArgs, key: BlockKey) -> bool:
        """Whether a block's arguments are those we know; of the first one's, keep what the policy wants to see."""
        reached, self.reached = self.reached, True
        if not self.lost and (reason := blocks.unlike(args, key)) is not None:
            self.lost = True
            self.run.retreat(reason)
        if self.lost or reached:
            return not self.lost
        self.picture, wanted = blocks.picture(args, key), self.run.recipe.policy.probe
        if wanted is Probe.FIRST_BLOCK:
            self.first = args["img"].clone()
        elif wanted is Probe.MODULATED:
            self.shown = blocks.modulated(network, args)
        elif wanted is Probe.EMBEDDING:
            self.shown = blocks.embedded(network, self.timestep, args["img"].dtype)
        return True

    def probes(self, tokens: Tensor) -> list[Tensor | None]:
        """What the policy wants to see, for each condition; `tokens` are those at the entry of the first span."""
        if self._probes is None:
            self._probes = self._look(tokens)
        return self._probes

    def _look(self, tokens: Tensor) -> list[Tensor | None]:
        wanted = self.run.recipe.policy.probe
        if wanted is Probe.NOTHING:
            return [None] * len(self.keys)
        probe = self.latent if wanted is Probe.LATENT else self.shown
        if wanted is Probe.FIRST_BLOCK:
            assert self.first is not None
            probe = tokens[:, self.picture] - self.first
        assert probe is not None
        return list(rows(probe, len(self.keys)))


@dataclass(slots=True)
class Part:
    """One cached span of blocks in one call."""

    call: Call
    place: Place
    span: range
    cases: list[Case] = field(default_factory=list)
    forecast: Tensor | None = None  # the span's output, if it is skipped
    macs: int = 0  # made before the span

    def enter(self, tokens: Tensor) -> None:
        """Decide at the span's entry; `tokens` are ours. The forecast is made at once: the host may write into what we were shown."""
        call = self.call
        parts = zip(call.keys, rows(tokens, len(call.keys)), call.probes(tokens), strict=True)
        self.cases = [Case(key, x, probe, self.place, x[:, call.picture]) for key, x, probe in parts]
        if call.run.decide(self.cases):
            self.forecast = torch.cat([call.run.reuse(case) for case in self.cases])
            call.meter.skip(self.place)
        self.macs = call.meter.so_far

    def leave(self, tokens: Tensor) -> None:
        """Learn from a computed span."""
        call = self.call
        call.meter.note(self.place, call.meter.so_far - self.macs)
        for case, part in zip(self.cases, rows(tokens, len(call.keys)), strict=True):
            call.run.record(case, part)


def rows(tokens: Tensor, count: int) -> Sequence[Tensor]:
    """The rows of `tokens` [R * B, ...] of each of the `count` conditions that are batched in them."""
    return tokens.chunk(count) if count > 1 else (tokens,)


def parts_of(call: Call, total: int) -> list[Part]:
    """The spans that the recipe caches as wholes, among the network's `total` blocks."""
    spans = call.run.recipe.cached(total)
    if call.run.recipe.site is Site.STACK:
        return [Part(call, Place(n), span) for n, span in enumerate(spans)]
    return [Part(call, Place(block), range(block, block + 1)) for span in spans for block in span]


def patches(blocks: Blocks, network: Any, call: Call, existing: Mapping[BlockKey, Patch]) -> dict[BlockKey, Patch]:
    """A patch for each block that the call has to do with; a patch already there is run inside ours."""
    keys = blocks.keys(network)
    parts = {block: part for part in parts_of(call, len(keys)) for block in part.span}

    def patch(index: int, key: BlockKey) -> Patch:
        inner, part = existing.get(key), parts.get(index)

        def run_block(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
            mine = part if call.begin(blocks, network, args, key) else None
            if mine is not None and index == mine.span[0]:
                mine.enter(blocks.copied(args, key))
            if mine is not None and mine.forecast is not None:
                return blocks.place(args, key, mine.forecast) if index == mine.span[-1] else args
            out: Mapping[str, Any] = inner(args, extra) if inner else extra["original_block"](args)
            if mine is not None and index == mine.span[-1]:
                mine.leave(blocks.tokens(out, key))
            return out

        return run_block

    return {key: patch(n, key) for n, key in enumerate(keys) if n == 0 or n in parts}
