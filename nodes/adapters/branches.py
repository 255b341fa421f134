"""The site BRANCH: skips attention, cross-attention and MLP inside a block, for the time of that one block's call.

The host calls our patch of a block. Before the block runs, the `forward` of the modules in question is laid over on the
module itself (as the host's own injections do), and the attention core by the host's `optimized_attention_override` in the
options handed on. Both are taken away when the block returns or raises, so nothing is ever left on the model: injections
for a whole sampling would stay on it until another model is loaded. An override or a laid-over `forward` that is there
already is called inside ours.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...cache_core import Case, Place, Run
from . import options
from .blocks import Call, Patch, rows
from .families import BlockArgs, BlockKey, Blocks
from .parts import CORE, Part, parts_of

Forward = Callable[..., Any]
Laid = list[tuple[nn.Module, Forward | None]]  # modules whose forward is laid over, with the one that they had of their own


@dataclass(frozen=True, slots=True)
class Seat:
    """One part of one block, with its modules: what no call changes."""

    part: Part
    place: Place
    outputs: tuple[tuple[str, nn.Module], ...]  # but the attention core's, which is no module
    idle: tuple[nn.Module, ...]
    attends: bool  # whether it has to do with the attention core


@dataclass(slots=True)
class Taken:
    """One part of one block in one call: its conditions, and its forecasts if it is skipped."""

    call: Call
    seat: Seat
    cases: dict[str, list[list[Case]]]  # for each output's results, one case for each condition
    forecasts: dict[str, list[Tensor]] | None = None
    macs: int = 0  # made by the part, in a call that is being counted

    def decide(self) -> None:
        """Ask the run, and forecast at once: the host may write into the tokens."""
        run = self.call.run
        if run.decide([case for results in self.cases.values() for cases in results for case in cases]):
            self.call.meter.skip(self.seat.place)
            self.forecasts = {
                name: [torch.cat([run.reuse(case) for case in cases]) for cases in results] for name, results in self.cases.items()
            }

    def lay(self, laid: Laid) -> None:
        """Have the part's modules answer, and note in `laid` what they did before."""
        for name, module in self.seat.outputs:
            _lay(module, self.answer(name, module.forward), laid)
        if self.forecasts is not None:
            for module in self.seat.idle:
                _lay(module, _idle(module), laid)

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
    for key, seats in _seats(blocks, network, call.run).items():
        call.patches[key] = _patch(blocks, network, call, key, seats)


def _seats(blocks: Blocks, network: Any, run: Run) -> dict[BlockKey, list[Seat]]:
    """The parts of each block of this network that are cached, looked up once in a run; the first block is there with or without."""
    found: dict[BlockKey, list[Seat]] | None = run.found.get(id(network))
    if found is None:
        keys, recipe = blocks.keys(network), run.recipe
        wanted = {kind: parts_of(network, kind, recipe) for kind, _ in keys}
        found = run.found[id(network)] = {keys[0]: []}
        for index in (index for span in recipe.cached(len(keys)) for index in span if wanted[keys[index][0]]):
            key = keys[index]
            found[key] = [_seat(blocks.block(network, key), part, Place(index, part.branch)) for part in wanted[key[0]]]
    return found


def _seat(block: nn.Module, part: Part, place: Place) -> Seat:
    names = [name for name, _ in part.outputs]
    outputs = tuple((name, block.get_submodule(name)) for name in names if name != CORE)
    return Seat(part, place, outputs, tuple(map(block.get_submodule, part.idle)), part.core or CORE in names)


def _patch(blocks: Blocks, network: Any, call: Call, key: BlockKey, seats: Sequence[Seat]) -> Patch:
    inner = call.patches.get(key)

    def run_block(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        run: Callable[[BlockArgs], Mapping[str, Any]] = (lambda given: inner(given, extra)) if inner else extra["original_block"]
        if not call.begin(blocks, network, args, key) or not seats:
            return run(args)
        taken, laid = [_take(call, seat, args) for seat in seats], Laid()
        try:
            for part in taken:
                part.lay(laid)
            if not call.meter.counting:
                return run(_overridden(args, taken))
            with _counted(taken):
                return run(_overridden(args, taken))
        finally:
            for module, own in reversed(laid):
                vars(module).pop("forward", None)
                if own is not None:
                    vars(module)["forward"] = own

    return run_block


def _take(call: Call, seat: Seat, args: BlockArgs) -> Taken:
    """A part with its decision made. Each result is a stream of its own, and all are decided together."""
    count, outputs = len(call.keys), seat.part.outputs
    probes = call.probes(args[outputs[0][1][0]])

    def cases(name: str, which: str) -> list[Case]:
        parts = zip(call.keys, rows(args[which], count), probes, strict=True)
        return [Case((key, name, which), x, probe, seat.place) for key, x, probe in parts]

    taken = Taken(call, seat, {name: [cases(name, which) for which in added] for name, added in outputs})
    taken.decide()
    return taken


def _lay(module: nn.Module, forward: Forward, laid: Laid) -> None:
    laid.append((module, vars(module).get("forward")))
    vars(module)["forward"] = forward


@contextmanager
def _counted(taken: Sequence[Taken]) -> Iterator[None]:
    """Counts what the parts that are computed take, by hooks that fire after the meter's own."""
    meter, computed = taken[0].call.meter, [part for part in taken if part.forecasts is None]

    def hooks(part: Taken, module: nn.Module) -> list[Any]:
        started = [0]

        def enter(*_: Any) -> None:
            started[0] = meter.so_far

        def leave(*_: Any) -> None:
            part.macs += meter.so_far - started[0]

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    modules = [(part, module) for part in computed for module in (*(module for _, module in part.seat.outputs), *part.seat.idle)]
    made = [hook for part, module in modules for hook in hooks(part, module)]
    try:
        yield
        for part in computed:
            meter.note(part.seat.place, part.macs)
    finally:
        for hook in made:
            hook.remove()


def _overridden(args: BlockArgs, taken: Sequence[Taken]) -> BlockArgs:
    """`args` with an override of the attention core, if one of the parts has to do with it."""
    part = next((each for each in taken if each.seat.attends), None)
    if part is None or (part.seat.part.core and part.forecasts is None and not part.call.meter.counting):
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
