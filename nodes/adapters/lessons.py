"""Lets a pupil learn an alignment during an ordinary sampling: at every call of the network the teacher goes first, at the same state.

The teacher is the same network without the cache. Both passes go through the host's wrappers and block patches.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...cache_core.blockcache import Rollouts, Training
from . import options
from .blocks import Patch
from .families import BlockArgs, BlockKey, Blocks, blocks_of

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """A pupil and the blocks that it aligns. `checkpointed`: training keeps each block's input alone and computes the block again."""

    pupil: Rollouts | Training
    cached: tuple[int, ...]
    checkpointed: bool = True


def taught(lesson: Lesson) -> Call:
    """A wrapper of the network's call (DIFFUSION_MODEL), outside of the cache's own."""
    return _fitting(lesson.pupil, lesson.cached) if isinstance(lesson.pupil, Rollouts) else _training(lesson.pupil, lesson.checkpointed)


def uncounted(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """A wrapper of the model's call (APPLY_MODEL): what teacher and student take together is no count of the student's."""
    run = options.run_of(options.transformer_options(args, kwargs))
    if run is not None:
        run.ledger.counted = False
    return executor(*args, **kwargs)


def _fitting(pupil: Rollouts, cached: Sequence[int]) -> Call:
    def fitted(executor: Any, *args: Any, **kwargs: Any) -> Any:
        _show(executor, args, kwargs, pupil, cached)
        return executor(*args, **kwargs)

    return fitted


def _training(pupil: Training, checkpointed: bool) -> Call:
    def trained(executor: Any, *args: Any, **kwargs: Any) -> Any:
        network = executor.class_obj
        with differentiable(network):
            args, kwargs = tuple(map(ordinary, args)), {key: ordinary(value) for key, value in kwargs.items()}
            with checkpointing(network, checkpointed):
                prediction: Tensor = with_patches(executor, args, kwargs, copying(network), {})

            def teacher() -> Any:
                with torch.no_grad():
                    return with_patches(executor, args, kwargs, {}, {options.KEY: None})

            pupil.learn(prediction, teacher)
        return prediction.detach()

    return trained


def _show(executor: Any, args: Sequence[Any], kwargs: options.Options, pupil: Rollouts, cached: Sequence[int]) -> None:
    """The teacher's pass: shows the tokens after each cached block, for each of the conditions batched in this call."""
    network, conditions = executor.class_obj, len(options.transformer_options(args, kwargs)["uuids"])
    blocks = _blocks(network)
    keys = blocks.keys(network)
    pupil.targets = {}

    def patch(index: int) -> Patch:
        def run_block(given: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
            out: Mapping[str, Any] = extra["original_block"](given)
            pupil.targets[index] = list(blocks.copied(out, keys[index]).chunk(conditions))
            return out

        return run_block

    with_patches(executor, args, kwargs, {keys[index]: patch(index) for index in cached}, {options.KEY: None})


def with_patches(executor: Any, args: Sequence[Any], kwargs: options.Options, own: Mapping[BlockKey, Patch], changes: Any) -> Any:
    """Call the network with our block patches, each round the one that is there already."""
    passed = options.transformer_options(args, kwargs)
    replace = passed.get("patches_replace", {})
    existing = replace.get("dit", {})
    laid = {key: _round(patch, existing.get(key)) for key, patch in own.items()}
    return options.call_with(executor, args, kwargs, passed, {**changes, "patches_replace": {**replace, "dit": {**existing, **laid}}})


def _round(patch: Patch, inner: Patch | None) -> Patch:
    """`patch`, with `inner` as the block that it calls."""
    if inner is None:
        return patch
    return lambda args, extra: patch(args, {**extra, "original_block": lambda given: inner(given, extra)})


def copying(network: nn.Module) -> dict[BlockKey, Patch]:
    """A patch for each block that hands it copies of its tokens."""
    blocks = _blocks(network)

    def patch(key: BlockKey) -> Patch:
        def run_block(args: BlockArgs, extra: Mapping[str, Any]) -> Mapping[str, Any]:
            tokens = {name: args[name] for name in blocks.names(key)}
            if any(part.requires_grad for part in tokens.values()):
                args = {**args, **{name: part.clone() for name, part in tokens.items()}}
            out: Mapping[str, Any] = extra["original_block"](args)
            return out

        return run_block

    return {key: patch(key) for key in blocks.keys(network)}


@contextmanager
def checkpointing(network: nn.Module, wanted: bool) -> Iterator[None]:
    """If `wanted`, each block keeps its input alone for the backward pass, which computes it again; for calls made meanwhile.

    It is the block itself that is computed again, not the host's way to it: that one has moved on to the last block by then.
    """
    blocks = _blocks(network)
    modules = [blocks.block(network, key) for key in blocks.keys(network)] if wanted else []
    for module in modules:
        module.forward = _checkpointed(network, module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _checkpointed(network: nn.Module, forward: Call) -> Call:
    def called(*args: Any, **kwargs: Any) -> Any:
        values, names, first = [*args, *kwargs.values()], list(kwargs), len(args)
        places = [n for n, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]
        if not places:
            return forward(*args, **kwargs)

        def again(*given: Tensor) -> Any:
            with _snapshots(network):
                told = [value.clone() if isinstance(value, Tensor) else value for value in values]  # a block may write into them
                for n, value in zip(places, given, strict=True):
                    told[n] = value.clone()
                # In the backward pass: among the values are options that lead to later tokens, and so back here.
                if torch.is_grad_enabled():
                    values.clear()
                return forward(*told[:first], **dict(zip(names, told[first:], strict=True)))

        return checkpoint(again, *[values[n] for n in places], use_reentrant=True, preserve_rng_state=False)

    return called


@contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Gradients through the host's network: its differentiable rope, and copies of what its blocks write into."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad(), _snapshots(network):
            _make_ordinary(network)
            yield
    finally:
        comfy.model_management.in_training = before


@contextmanager
def _snapshots(network: nn.Module) -> Iterator[None]:
    """Keep copies of activations for the backward pass, since Flux's blocks write into theirs; the network's weights stay shared."""
    weights = {parameter.data_ptr() for parameter in network.parameters()}

    def snapshot(saved: Tensor) -> Tensor:
        owner = saved if saved._base is None else saved._base
        return saved if owner.data_ptr() in weights else saved.detach().clone()

    with torch.autograd.graph.saved_tensors_hooks(snapshot, lambda kept: kept):
        yield


def _make_ordinary(network: nn.Module) -> None:
    """Put ordinary weights of the same values in place of those loaded in inference mode, which no backward pass can go through."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and (parameter.is_inference() or parameter.requires_grad):
                module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)


def ordinary(value: Any) -> Any:
    """A tensor of inference mode as an ordinary one, in lists too; anything else as it is."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    return [ordinary(item) for item in value] if isinstance(value, list) else value


def _blocks(network: nn.Module) -> Blocks:
    blocks = blocks_of(network)
    assert blocks is not None, "student() has seen to it"
    return blocks
