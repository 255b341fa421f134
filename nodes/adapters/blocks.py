"""The sites STACK and BLOCK: skip spans of transformer blocks by the host's block patches, laid over one call at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...cache_core import Case, Place, Probe, Run, Site
from ...cache_core.macs import Meter
from .families import BlockArgs, BlockKey, Blocks

NOTHING, LATENT, MODULATED, EMBEDDING, FIRST_BLOCK = Probe.NOTHING, Probe.LATENT, Probe.MODULATED, Probe.EMBEDDING, Probe.FIRST_BLOCK
Patch = Callable[[BlockArgs, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(slots=True)
class Call:
    """One call of the network on its way through the blocks, with the conditions `keys` batched in equal parts."""

    run: Run
    meter: Meter
    keys: list[Any]
    latent: Tensor  # the network's input [R * B, C, ...]
    timestep: Tensor  # its second [R * B] or [R * B, T]
    patches: dict[BlockKey, Patch]  # what the host looks into before each block; those there already are run inside ours
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
        if wanted is FIRST_BLOCK:
            self.first = args["img"].clone()
        elif wanted is MODULATED:
            self.shown = blocks.modulated(network, args)
        elif wanted is EMBEDDING:
            self.shown = blocks.embedded(network, self.timestep, args["img"].dtype)
        return True

    def probes(self, tokens: Tensor) -> list[Tensor | None]:
        """What the policy wants to see, for each condition; `tokens` are those at the entry of the first span."""
        if self._probes is None:
            self._probes = self._look(tokens)
        return self._probes

    def _look(self, tokens: Tensor) -> list[Tensor | None]:
        wanted = self.run.recipe.policy.probe
        if wanted is NOTHING:
            return [None] * len(self.keys)
        probe = self.latent if wanted is LATENT else self.shown
        if wanted is FIRST_BLOCK:
            assert self.first is not None
            probe = tokens[:, self.picture] - self.first
        assert probe is not None
        return list(rows(probe, len(self.keys)))


@dataclass(slots=True)
class Part:
    """One cached span of blocks in one call."""

    call: Call
    place: Place
    keys: list[BlockKey]  # of its blocks
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
            call.patches.update(dict.fromkeys(self.keys[1:-1], _pass))
        self.macs = call.meter.so_far

    def leave(self, tokens: Tensor) -> None:
        """Learn from a computed span."""
        call = self.call
        if call.meter.counting:
            call.meter.note(self.place, call.meter.so_far - self.macs)
        for case, part in zip(self.cases, rows(tokens, len(call.keys)), strict=True):
            call.run.record(case, part)


def rows(tokens: Tensor, count: int) -> Sequence[Tensor]:
    """The rows of `tokens` [R * B, ...] of each of the `count` conditions that are batched in them."""
    return tokens.chunk(count) if count > 1 else (tokens,)


@dataclass(frozen=True, slots=True)
class Plan:
    """The patch keys of a network's first block, and of the spans of blocks that a recipe caches as wholes."""

    first: BlockKey
    spans: list[tuple[Place, list[BlockKey]]]


def plan_of(blocks: Blocks, network: Any, run: Run) -> Plan:
    """The plan for this network, made once in a run."""
    found: Plan | None = run.found.get(id(network))
    if found is None:
        keys = blocks.keys(network)
        spans = run.recipe.cached(len(keys))
        if run.recipe.site is not Site.STACK:
            spans = [range(block, block + 1) for span in spans for block in span]
        places = [Place(n if run.recipe.site is Site.STACK else span[0]) for n, span in enumerate(spans)]
        keyed = [[keys[n] for n in span] for span in spans]
        found = run.found[id(network)] = Plan(keys[0], list(zip(places, keyed, strict=True)))
    return found


def lay(blocks: Blocks, network: Any, call: Call) -> None:
    """Patch the first and the last block of each span, and the network's first one; those in between only where they are skipped."""
    plan = plan_of(blocks, network, call.run)
    for place, keys in plan.spans:
        part = Part(call, place, keys)
        for key in {keys[0], keys[-1]}:
            call.patches[key] = _edge(blocks, network, part, key)
    if not any(plan.first in keys for _, keys in plan.spans):
        call.patches[plan.first] = _edge(blocks, network, Part(call, Place(0), []), plan.first)


def _edge(blocks: Blocks, network: Any, part: Part, key: BlockKey) -> Patch:
    """The patch of a block where a span starts or ends, or of the network's first one."""
    call, inner = part.call, part.call.patches.get(key)
    starts, ends = key in part.keys[:1], key in part.keys[-1:]

    def run_block(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        known = call.begin(blocks, network, args, key)
        if known and starts:
            part.enter(blocks.copied(args, key))
        if known and part.forecast is not None:
            return blocks.place(args, key, part.forecast) if ends else args
        out: Mapping[str, Any] = inner(args, extra) if inner else extra["original_block"](args)
        if known and ends:
            part.leave(blocks.tokens(out, key))
        return out

    return run_block


def _pass(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
    """The patch of a block that is skipped amid a span."""
    return args
