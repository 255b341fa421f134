"""The site STACK: skips a span of transformer blocks by means of the host's block patches, laid over one call at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...cache_core import Case, Probe, RecipeError, Run
from ...cache_core.macs import Meter
from . import options
from .families import BlockArgs, BlockKey, Blocks

SPAN = "stack"
Patch = Callable[[BlockArgs, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(slots=True)
class Call:
    """One call of the network on its way through the blocks, with the conditions `keys` batched in equal parts."""

    run: Run
    meter: Meter
    keys: list[Any]
    latent: Tensor  # the network's input [R * B, C, ...]
    first: Tensor | None = None  # tokens [R * B, L, D] before the first block
    modulated: Tensor | None = None
    cases: list[Case] = field(default_factory=list)
    forecast: Tensor | None = None  # the span's output, if it is skipped
    macs: int = 0  # made before the span

    def begin(self, blocks: Blocks, network: Any, args: BlockArgs, key: BlockKey) -> None:
        """Keep what the policy wants to see of the first block's arguments."""
        wanted = self.run.recipe.policy.probe
        if wanted is Probe.FIRST_BLOCK:
            self.first = blocks.tokens(args, key).clone()
        elif wanted is Probe.MODULATED:
            self.modulated = blocks.modulated(network, args)

    def enter(self, tokens: Tensor) -> None:
        """Decide at the span's entry. The forecast is made at once, since the host may write into `tokens`."""
        kept = tokens.clone()
        probes = self._probes(kept)
        parts = zip(self.keys, kept.chunk(len(self.keys)), probes, strict=True)
        self.cases = [Case(key, x, probe) for key, x, probe in parts]
        if self.run.decide(self.cases):
            self.forecast = torch.cat([self.run.reuse(case) for case in self.cases])
            self.meter.skip(SPAN)
        self.macs = self.meter.so_far

    def leave(self, tokens: Tensor) -> None:
        """Learn from a computed span."""
        self.meter.note(SPAN, self.meter.so_far - self.macs)
        for case, part in zip(self.cases, tokens.chunk(len(self.keys)), strict=True):
            self.run.record(case, part)

    def _probes(self, tokens: Tensor) -> list[Tensor | None]:
        wanted = self.run.recipe.policy.probe
        if wanted is Probe.FIRST_BLOCK:
            assert self.first is not None
            return list((tokens - self.first).chunk(len(self.keys)))
        if wanted is Probe.NOTHING:
            return [None] * len(self.keys)
        probe = self.latent if wanted is Probe.LATENT else self.modulated
        assert probe is not None
        return list(probe.chunk(len(self.keys)))


def through_stack(executor: Any, run: Run, meter: Meter, blocks: Blocks, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Call the network with our patches over those that are there already."""
    passed = options.transformer_options(args, kwargs)
    call = Call(run, meter, options.conditions(passed, run), args[0])
    replace = passed.get("patches_replace", {})
    overlay = patches(blocks, executor.class_obj, call, replace.get("dit", {}))
    laid = {**passed, "patches_replace": {**replace, "dit": {**replace.get("dit", {}), **overlay}}}
    args = [laid if value is passed else value for value in args]
    return executor(*args, **{key: laid if value is passed else value for key, value in kwargs.items()})


def patches(blocks: Blocks, network: Any, call: Call, existing: Mapping[BlockKey, Patch]) -> dict[BlockKey, Patch]:
    """A patch for each block that the call has to do with; a patch already there is run inside ours."""
    keys, recipe = blocks.keys(network), call.run.recipe
    entry, last = recipe.head, len(keys) - recipe.tail - 1
    if entry > last:
        raise RecipeError(
            f"{recipe.name}: head {recipe.head} and tail {recipe.tail} leave none of the model's {len(keys)} blocks to cache. "
            "Make them smaller."
        )

    def patch(index: int, key: BlockKey) -> Patch:
        inner = existing.get(key)

        def run_block(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
            if index == 0:
                call.begin(blocks, network, args, key)
            if index == entry:
                call.enter(blocks.tokens(args, key))
            if call.forecast is not None and index >= entry:
                return blocks.place(args, key, call.forecast) if index == last else args
            out: Mapping[str, Any] = inner(args, extra) if inner else extra["original_block"](args)
            if index == last:
                call.leave(blocks.tokens(out, key))
            return out

        return run_block

    return {key: patch(n, key) for n, key in enumerate(keys) if n == 0 or entry <= n <= last}
