"""The site BRANCH: skips attention, cross-attention and MLP inside a block, for the time of that one block's call.

The host calls our patch of a block. Before the block runs, the `forward` of the modules in question is laid over on the
module itself (as the host's own injections do), and the attention core by the host's `optimized_attention_override` in the
options handed on. Both are taken away when the block returns or raises, so nothing is ever left on the model: injections
for a whole sampling would stay on it until another model is loaded. An override or a laid-over `forward` that is there
already is called inside ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...cache_core import Case, Place
from . import options
from .blocks import Call, Patch, rows
from .families import BlockArgs, BlockKey, Blocks
from .parts import CORE, Part, parts_of

Forward = Callable[..., Any]


@dataclass(slots=True)
class Taken:
    """One part of one block in one call: its conditions, and its forecasts if it is skipped."""

    call: Call
    part: Part
    place: Place
    cases: dict[str, list[list[Case]]]  # for each output's results, one case for each condition
    forecasts: dict[str, list[Tensor]] | None = None
    macs: int = 0  # made by the part, in a call that is being counted

    def decide(self) -> None:
        """Ask the run, and forecast at once: the host may write into the tokens."""
        run = self.call.run
        if run.decide([case for results in self.cases.values() for cases in results for case in cases]):
            self.call.meter.skip(self.place)
            self.forecasts = {
                name: [torch.cat([run.reuse(case) for case in cases]) for cases in results] for name, results in self.cases.items()
            }

    def answer(self, name: str, inner: Forward) -> Forward:
        """What to lay over the output `name`, whose own forward is `inner`: the forecast, or a look at the result."""
        if self.forecasts is not None:
            kept = self.forecasts[name]
            return _skip(lambda *args, **kwargs: kept[0] if len(kept) == 1 else tuple(kept))

        def forward(*args: Any, **kwargs: Any) -> Any:
            found = inner(*args, **kwargs)
            for cases, result in zip(self.cases[name], (found,) if isinstance(found, Tensor) else found, strict=True):
                for case, y in zip(cases, rows(result, len(cases)), strict=True):
                    self.call.run.record(case, y)
            return found

        return forward


def lay(blocks: Blocks, network: Any, call: Call) -> None:
    """Patch each block with a part that is cached, and the first."""
    keys, recipe = blocks.keys(network), call.run.recipe
    wanted = {kind: parts_of(network, kind, recipe) for kind in {kind for kind, _ in keys}}
    cached = {index for span in recipe.cached(len(keys)) for index in span if wanted[keys[index][0]]}

    def patch(index: int, key: BlockKey) -> Patch:
        inner = call.patches.get(key)
        block = blocks.block(network, key)

        def run_block(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
            run: Callable[[BlockArgs], Mapping[str, Any]] = (lambda given: inner(given, extra)) if inner else extra["original_block"]
            if not call.begin(blocks, network, args, key) or index not in cached:
                return run(args)
            taken = [_take(call, part, index, args) for part in wanted[key[0]]]
            with ExitStack() as stack:
                for part in taken:
                    stack.enter_context(_laid(block, part))
                return run(_overridden(args, taken))

        return run_block

    call.patches.update({key: patch(n, key) for n, key in enumerate(keys) if n == 0 or n in cached})


def _take(call: Call, part: Part, index: int, args: BlockArgs) -> Taken:
    """The part of block `index` with its decision made. Each result is a stream of its own, and all are decided together."""
    place, count = Place(index, part.branch), len(call.keys)
    first: Tensor = args[part.outputs[0][1][0]]
    probes = call.probes(first)

    def cases(name: str, which: str) -> list[Case]:
        parts = zip(call.keys, rows(args[which], count), probes, strict=True)
        return [Case((key, name, which), x, probe, place) for key, x, probe in parts]

    taken = Taken(call, part, place, {name: [cases(name, which) for which in added] for name, added in part.outputs})
    taken.decide()
    return taken


@contextmanager
def _laid(block: nn.Module, taken: Taken) -> Iterator[None]:
    """The part's modules answer for the time of the context."""
    part, meter = taken.part, taken.call.meter
    outputs = [(block.get_submodule(name), name) for name, _ in part.outputs if name != CORE]
    laid = [(module, taken.answer(name, module.forward)) for module, name in outputs]
    idle = [block.get_submodule(name) for name in part.idle]
    if taken.forecasts is not None:
        laid += [(module, _idle(module)) for module in idle]
    before = [(module, vars(module).get("forward")) for module, _ in laid]
    try:
        for module, forward in laid:
            vars(module)["forward"] = forward
        if taken.forecasts is None and meter.counting:
            with _counted(taken, [*(module for module, _ in outputs), *idle]):
                yield
            meter.note(taken.place, taken.macs)
        else:
            yield
    finally:
        for module, own in before:
            vars(module).pop("forward", None)
            if own is not None:
                vars(module)["forward"] = own


@contextmanager
def _counted(taken: Taken, modules: Sequence[nn.Module]) -> Iterator[None]:
    """Counts what the modules take, by hooks that fire after the meter's own."""
    meter, started = taken.call.meter, [0]

    def enter(*_: Any) -> None:
        started[0] = meter.so_far

    def leave(*_: Any) -> None:
        taken.macs += meter.so_far - started[0]

    hooks = [hook for module in modules for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _overridden(args: BlockArgs, taken: Sequence[Taken]) -> BlockArgs:
    """`args` with an override of the attention core, if one of the parts has to do with it."""
    part = next((each for each in taken if each.part.core or CORE in each.cases), None)
    if part is None or (part.part.core and part.forecasts is None and not part.call.meter.counting):
        return args
    passed = args.get("transformer_options") or {}
    return {**args, "transformer_options": options.with_attention(passed, lambda attend: _core(part, attend))}


def _core(taken: Taken, attend: Forward) -> Forward:
    """The attention core `attend(q, k, v, heads, ...)` as the part wants it; q is [B, heads, L, D / heads]."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        before = taken.call.meter.so_far
        found = attend(*args, **kwargs)
        taken.macs += taken.call.meter.so_far - before
        return found

    if CORE in taken.cases:
        return taken.answer(CORE, counted)
    if taken.forecasts is None:
        return counted
    return lambda q, *args, **kwargs: q.new_zeros(()).expand(q.shape[0], q.shape[-2], q.shape[1] * q.shape[-1])


def _idle(module: nn.Module) -> Forward:
    """Works for nobody: a linear layer answers with zeros that take no memory, a norm of queries and keys with both."""
    if isinstance(module, nn.Linear):
        return _skip(lambda x: x.new_zeros(()).expand(*x.shape[:-1], module.out_features))
    return _skip(lambda q, k, v: (q, k))


def _skip(forward: Forward) -> Forward:
    """Marks a forward that makes no multiply-accumulates of its module's (see macs.Counter)."""
    forward.skips = True  # type: ignore[attr-defined]
    return forward
