"""Skip branches on the host's models: laid over the block patches of one call at a time, as caches are, and inside of those."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...cache_core import RecipeError
from ...cache_core.macs import Meter
from ...cache_core.skip.branch import Branch, fused, partner
from . import options
from .blocks import Patch
from .families import BlockArgs, BlockKey, Blocks, blocks_of
from .host import meter_of

KIND = WrappersMP.DIFFUSION_MODEL
UNREAD = "A cache held blocks that skip branches read, so some blocks ran without their branch. Encore Skip Cache keeps both ends."


def attach_branches(model: Any, made: nn.ModuleList, notes: Sequence[str] = ()) -> Any:
    """A clone of `model` (ModelPatcher) with a branch at each deep block, in place of any attached before.

    The `notes` go into the report of every sampling that a cache of ours is on. Raises RecipeError for branches of other blocks.
    Block b of L reads the output of block L - 1 - b. Flux counts its double blocks first and then the single ones: a double
    block's tokens are text and picture in one sequence, the order that single blocks have them in.
    """
    _check(model.model.diffusion_model, made)
    model = model.clone()
    held = comfy.model_patcher.ModelPatcher(made, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())
    model.set_additional_models(options.BRANCHES, [held])
    passed = model.model_options.setdefault("transformer_options", {})
    passed[options.BRANCHES] = made
    caches = list(model.get_wrappers(KIND, options.KEY))
    for key in (options.BRANCHES, options.KEY):
        model.remove_wrappers_with_key(KIND, key)
    for key, wrapper in ((options.BRANCHES, _overlay(notes)), *((options.KEY, cache) for cache in caches)):
        model.add_wrapper_with_key(KIND, key, wrapper)  # the first is the outermost: a cache's patches run round the branches'
    return model


def layout_of(network: Any) -> tuple[int, int]:
    """How many blocks a network has, and how wide their tokens are. Raises RecipeError where its blocks cannot be reached."""
    blocks = blocks_of(network)
    if blocks is None or not blocks.wraps:
        name = type(network).__name__
        raise RecipeError(f"Skip branches can be put on Flux and Wan and on networks with their block patches, and this is {name}.")
    width = getattr(network, "hidden_size", None) or getattr(network, "dim", None) or getattr(network, "inner_dim", None)
    if width is None:
        raise RecipeError(
            f"{type(network).__name__} of this ComfyUI does not say how wide its tokens are, so no branch can be made for it."
        )
    return len(blocks.keys(network)), int(width)


def _check(network: Any, made: nn.ModuleList) -> None:
    total, width = layout_of(network)
    found = [branch.linear.out_features for branch in made if isinstance(branch, Branch)]
    if found != [width] * (total // 2):
        raise RecipeError(
            f"These are {len(found)} branches of width {', '.join(map(str, sorted(set(found))))}, and {type(network).__name__} has {total} "
            f"blocks of width {width}, which need {total // 2}. Take branches that were made for this model."
        )


def _overlay(notes: Sequence[str]) -> Callable[..., Any]:
    """Wrapper of one pass through the network: the branches' patches over those that are there."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        passed = options.transformer_options(args, kwargs)
        made, blocks, run = options.branches_of(passed), blocks_of(executor.class_obj), options.run_of(passed)
        if made is None or blocks is None:
            return executor(*args, **kwargs)
        tell: Callable[[str], None] = (lambda text: None) if run is None else run.ledger.note
        for note in notes:
            tell(note)
        replace = passed.get("patches_replace", {})
        existing = replace.get("dit", {})
        laid = {**existing, **patches(blocks, executor.class_obj, made, existing, tell)}
        return options.call_with(executor, args, kwargs, passed, {"patches_replace": {**replace, "dit": laid}})

    return wrapper


def patches(
    blocks: Blocks, network: Any, made: nn.ModuleList, existing: Mapping[BlockKey, Patch], tell: Callable[[str], None]
) -> dict[BlockKey, Patch]:
    """A patch for each block of one call; a patch already there is run inside ours.

    Where a shallow block was left out by a cache, there is nothing fresh to read, and its partner's input stays as it is; `tell` gets
    a note of it.
    """
    keys, meter = blocks.keys(network), meter_of(network)
    outputs: dict[int, Tensor] = {}

    def patch(index: int, key: BlockKey) -> Patch:
        inner = existing.get(key)

        def run_block(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
            run: Callable[[BlockArgs], Mapping[str, Any]] = (lambda given: inner(given, extra)) if inner else extra["original_block"]
            other = partner(index, len(keys))
            if other is not None and other not in outputs:
                tell(UNREAD)
            elif other is not None:
                x = blocks.tokens(args, key)
                args = blocks.place(args, key, fused(made, index, len(keys), x, outputs))
                _count(meter, x)
            out = run(args)
            if index < len(keys) // 2:
                outputs[index] = blocks.copied(out, key)
            return out

        return run_block

    return {key: patch(n, key) for n, key in enumerate(keys)}


def _count(meter: Meter, x: Tensor) -> None:
    meter.add(2 * x.numel() * x.shape[-1])
