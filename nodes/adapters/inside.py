"""The sites inside the network: whether a recipe can reach them on the model at hand, and the way through one call."""

from collections.abc import Sequence
from typing import Any

from ...cache_core import Probe, Recipe, RecipeError, Run, Site
from ...cache_core.macs import Meter, is_compiled
from . import blocks as spans
from . import branches, options
from .families import BlockKey, Blocks, blocks_of
from .parts import parts_of


def check(run: Run, network: Any, compiled: bool) -> None:
    """Compare the loaded host with what the recipe needs; what does not fit sends the run outside of the network, with a note."""
    if not run.recipe.site.inside:
        return
    reason = unreachable(network, run.recipe, compiled)
    if reason is not None:
        run.retreat(reason)
    elif run.recipe.site is Site.BRANCH:
        _note_branches(run, network)


def unreachable(network: Any, recipe: Recipe, compiled: bool = False) -> str | None:
    """Why the blocks of `network`, or their branches, cannot be reached: a sentence, or None if they can."""
    name, blocks = type(network).__name__, blocks_of(network)
    if blocks is None:
        return f"Encore knows no way to the transformer blocks of {name}."
    try:
        keys = blocks.keys(network)
    except RecipeError as error:
        return str(error)
    if recipe.policy.probe is Probe.EMBEDDING and not hasattr(network, blocks.embedding or ""):
        return f"{name} makes no {recipe.policy.probe.value} that Encore could show: take a table of the model's own family."
    return _branches_unreachable(network, blocks, keys, recipe, compiled) if recipe.site is Site.BRANCH else None


def _branches_unreachable(network: Any, blocks: Blocks, keys: Sequence[BlockKey], recipe: Recipe, compiled: bool) -> str | None:
    name = type(network).__name__
    if compiled or is_compiled(network):
        return f"{name} is compiled, and parts of a compiled block cannot be skipped."
    found = {kind: parts_of(network, kind, recipe) for kind, _ in keys}
    if not any(found.values()):
        return f"{name} has none of {', '.join(sorted(branch.value for branch in recipe.branches))} in a form that can be skipped alone."
    first = {kind: blocks.block(network, (kind, index)) for kind, index in reversed(keys)}
    missing = [f"{kind}.{module}" for kind, parts in found.items() for part in parts for module in part.missing(first[kind])]
    return f"{name} of this ComfyUI has no {', '.join(missing)}." if missing else None


def _note_branches(run: Run, network: Any) -> None:
    """Say which of the branches that are switched on, and which blocks, are computed after all."""
    blocks = blocks_of(network)
    assert blocks is not None
    kinds = list(dict.fromkeys(kind for kind, _ in blocks.keys(network)))
    found = {kind: parts_of(network, kind, run.recipe) for kind in kinds}
    reached = {branch for parts in found.values() for part in parts for branch in part.branches}
    for branch in sorted(run.recipe.branches - reached, key=lambda branch: branch.value):
        run.ledger.note(f"{type(network).__name__} has no {branch.value} of its own, so there is none to skip.")
    for kind in (kind for kind, parts in found.items() if not parts):
        run.ledger.note(f"The {kind.replace('_', ' ')}s of {type(network).__name__} make these branches in one and are computed.")


def through(executor: Any, run: Run, meter: Meter, network: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the network with our patches over those that are there already."""
    passed = options.transformer_options(args, kwargs)
    blocks = blocks_of(network)
    assert isinstance(blocks, Blocks)
    replace = passed.get("patches_replace", {})
    call = spans.Call(run, meter, options.conditions(passed, run), args[0], args[1], dict(replace.get("dit", {})))
    (branches if run.recipe.site is Site.BRANCH else spans).lay(blocks, network, call)
    result = options.call_with(executor, args, kwargs, passed, {"patches_replace": {**replace, "dit": call.patches}})
    if not call.reached:
        run.retreat(f"{type(network).__name__} never called its first block through its patch; some node replaces its forward.")
    return result
