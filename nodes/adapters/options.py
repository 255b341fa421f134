"""Reads what ComfyUI passes along while it samples. The only file that knows its keys."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from ...cache_core import Run

KEY = "encore"  # under which the run of a sampling travels in transformer_options, and our wrappers in the model
BRANCHES = "encore_skip"  # under which skip branches do
RIVALS = ("easycache", "lazycache")  # other caches of the whole output that leave their mark in transformer_options
ATTENTION = "optimized_attention_override"  # the host's slot for a function in place of its attention
CHANGING = {"timestep_start", "timestep_end", "control"}  # what a condition has that may act at some noise levels only
LISTED = {"unipc": "uni_pc", "unipc_bh2": "uni_pc_bh2"}  # samplers whose function has another name than the list
COMPILE = "torch.compile"  # under which ComfyUI's compile node puts its wrapper

Options = Mapping[str, Any]
Conds = Sequence[Mapping[str, Any]] | None


def run_of(transformer_options: Options) -> Run | None:
    """The run this call belongs to, if Encore's sampling wrapper is round it."""
    run: Run | None = transformer_options.get(KEY)
    return run


def branches_of(transformer_options: Options) -> nn.ModuleList | None:
    """The skip branches on this model."""
    made: nn.ModuleList | None = transformer_options.get(BRANCHES)
    return made


def transformer_options(args: Sequence[Any], kwargs: Options) -> Options:
    """ComfyUI hands the options to model wrappers by position or by name, at a place that differs per model."""
    found: Options | None = kwargs.get("transformer_options")
    if found is not None:
        return found
    for value in reversed(args):
        if isinstance(value, dict) and "sigmas" in value:
            return value
    return {}


def call_with(executor: Any, args: Sequence[Any], kwargs: Options, passed: Options, changes: Options) -> Any:
    """Call on, with `changes` laid over the transformer options `passed` that are among the arguments; they stay as they are."""
    laid = {**passed, **changes}
    args = [laid if value is passed else value for value in args]
    return executor(*args, **{key: laid if value is passed else value for key, value in kwargs.items()})


def active(conds: Conds, sigma: float) -> tuple[Any, ...]:
    """Which of the conditions, and of their ControlNets, act at noise level `sigma`, as something to compare by.

    Where this changes from one evaluation to the next, the function that is sampled changes.
    """
    found: list[Any] = []
    for cond in conds or ():
        uuid = cond.get("uuid")
        found.append(getattr(uuid, "int", uuid) if CHANGING.isdisjoint(cond) else _acting(cond, sigma))  # its hash takes no Python
    return tuple(found)


def asked(transformer_options: Options, conds: Iterable[Conds], sigma: float) -> tuple[Any, ...]:
    """What the host asks its model for, as something to compare by: frames of a context window, and of each list what acts."""
    found: list[Any] = [window(transformer_options) if "context_window" in transformer_options else None]
    for cond in conds:
        found.append(None if cond is None else active(cond, sigma))
    return tuple(found)


def drop(transformer_options: Options, kinds: Iterable[str]) -> None:
    """Take our wrappers of these kinds out of options that are ours alone."""
    wrappers = transformer_options["wrappers"]
    for kind in kinds:
        wrappers.get(kind, {}).pop(KEY, None)
        if not wrappers.get(kind, True):
            del wrappers[kind]


def window(transformer_options: Options) -> tuple[int, ...] | None:
    """Frames of the context window under evaluation, or None if the whole latent is."""
    found = transformer_options.get("context_window")
    return None if found is None else tuple(found.index_list)


def conditions(transformer_options: Options, run: Run) -> list[Any]:
    """A key for each condition batched in this call of the network, first rows first."""
    frames = window(transformer_options)
    return [run.occurrence((getattr(uuid, "int", uuid), frames)) for uuid in transformer_options["uuids"]]


def sampler_name(sampler: Any) -> str:
    """The name of one of the host's samplers, as its list has it, or of what else samples."""
    name = getattr(getattr(sampler, "sampler_function", sampler), "__name__", type(sampler).__name__)
    name = str(name).removeprefix("sample_")
    return LISTED.get(name, name)


def rival(transformer_options: Options) -> str | None:
    """Another cache on the same model, by name."""
    return next((key for key in RIVALS if key in transformer_options), None)


@contextmanager
def watched_attention(transformer_options: Options, watch: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Shows `watch` the queries, keys and values of every attention of this call; an override that is there still acts."""
    inner = transformer_options.get(ATTENTION)

    def override(attend: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        watch(*args[:3])
        return attend(*args, **kwargs) if inner is None else inner(attend, *args, **kwargs)

    assert isinstance(transformer_options, dict)
    transformer_options[ATTENTION] = override
    try:
        yield
    finally:
        transformer_options.pop(ATTENTION)
        if inner is not None:
            transformer_options[ATTENTION] = inner


def with_attention(transformer_options: Options, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> dict[str, Any]:
    """A copy of the options in which every attention `attend(q, k, v, ...)` is `change(attend)`; an override that is there still acts."""
    inner = transformer_options.get(ATTENTION)

    def override(attend: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return change(attend if inner is None else partial(inner, attend))(*args, **kwargs)

    return {**transformer_options, ATTENTION: override}


def is_compiled(transformer_options: Options) -> bool:
    """Whether ComfyUI's compile node is on this model."""
    return any(COMPILE in wrappers for wrappers in transformer_options.get("wrappers", {}).values())


def changes(transformer_options: Options) -> tuple[Any, ...]:
    """What changes the cost of a call: the names of the blocks that some node replaces, and whether there are skip branches."""
    replaced = transformer_options.get("patches_replace")
    names = sorted(map(str, replaced.get("dit", ()))) if replaced else ()
    return *names, BRANCHES in transformer_options


def _acting(cond: Mapping[str, Any], sigma: float) -> Any:
    if not _in_range((cond.get("timestep_start"), cond.get("timestep_end")), sigma):
        return None
    return cond.get("uuid"), *[_in_range(net.timestep_range, sigma) for net in _controls(cond)]


def _in_range(span: Iterable[float | None] | None, sigma: float) -> bool:
    if span is None:
        return True
    start, end = span
    return (start is None or sigma <= start) and (end is None or sigma >= end)


def _controls(cond: Mapping[str, Any]) -> Iterator[Any]:
    net = cond.get("control")
    while net is not None:
        yield net
        net = net.previous_controlnet
