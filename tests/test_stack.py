"""The site STACK on real networks: a span of blocks skipped through the host's block patches."""

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from host_models import BLOCKS, BlockCalls, newest, prompt, sample
from pack.cache_core import Recipe, RecipeError, Site, Target
from pack.cache_core.policies import Interval, Mask, Never
from pack.cache_core.predictors import Hold, Lagrange
from pack.nodes.adapters import blocks, families, host

pytestmark = pytest.mark.host
MASK = frozenset({0, 1, 4, 7})


def stack(policy, predictor=None, target=Target.RESIDUAL, head=0, tail=0):
    return Recipe(policy, predictor or Hold(), Site.STACK, target, head=head, tail=tail)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize(("head", "tail"), [(0, 0), (1, 0), (1, 1)])
def test_a_policy_that_never_reuses_is_bit_identical(model, family, cfg, head, tail):
    plain = sample(model, family, cfg=cfg, batch=2)
    assert torch.equal(plain, sample(host.attach(model, stack(Never(), head=head, tail=tail)), family, cfg=cfg, batch=2))


@pytest.mark.parametrize(("cfg", "negative", "calls"), [(1.0, 5, 1), (3.0, 5, 1), (3.0, 7, 2)])
@pytest.mark.parametrize(("head", "tail"), [(0, 0), (1, 0), (1, 1)])
def test_blocks_of_head_and_tail_always_run_and_the_span_runs_by_the_mask(model, family, cfg, negative, calls, head, tail):
    with BlockCalls(model) as counted:
        cached = host.attach(model, stack(Mask(MASK, 8), head=head, tail=tail))
        sample(cached, family, cfg=cfg, negative_tokens=negative)
    span = BLOCKS[family] - head - tail
    found = sorted(counted.calls.values())
    expected = sorted([8 * calls] * (head + tail) + [4 * calls] * span)
    assert [n for n in found + [0] * (len(expected) - len(found))] == expected


def test_the_whole_stack_forecast_on_a_mask_is_the_plain_loop(model, family):
    """Hold the residual of the last blocks by hand, with the host's own block patches."""
    kept = {}
    step = {"n": -1}
    network = model.model.diffusion_model
    first, last = [("double_block", 0), ("single_block", 1)] if family == "flux" else [("double_block", 0), ("double_block", 2)]

    def tokens(found, key):
        return torch.cat([found["txt"], found["img"]], 1) if key[0] == "double_block" and family == "flux" else found["img"]

    def enter(args, extra):
        step["n"] += 1
        kept["x"] = tokens(args, first).clone()
        return extra["original_block"](args)

    def leave(args, extra):
        out = extra["original_block"](args)
        if step["n"] in MASK:
            kept["residual"] = tokens(out, last) - kept["x"]
            return out
        return {**out, "img": kept["x"] + kept["residual"]}

    by_hand = model.clone()
    by_hand.set_model_patch_replace(enter, "dit", *first)
    by_hand.set_model_patch_replace(leave, "dit", *last)
    expected = sample(by_hand, family)
    assert network is by_hand.model.diffusion_model
    assert torch.equal(expected, sample(host.attach(model, stack(Mask(MASK, 8))), family))


@pytest.mark.parametrize(("head", "tail", "edges"), [(0, 0, [0, -1]), (1, 0, [0, 1, -1]), (2, 0, [0, 2])])
def test_blocks_amid_a_span_are_patched_only_where_they_are_skipped(model, family, monkeypatch, head, tail, edges):
    calls, lay = [], blocks.lay

    def laid(family, network, call):
        lay(family, network, call)
        calls.append((set(call.patches), call))

    monkeypatch.setattr(blocks, "lay", laid)
    sample(host.attach(model, stack(Mask(MASK, 8), head=head, tail=tail)), family)
    keys = families.blocks_of(model.model.diffusion_model).keys(model.model.diffusion_model)
    span = {keys[0], *keys[head : len(keys) - tail]}
    for n, (before, call) in enumerate(calls):
        assert before == {keys[edge] for edge in edges} & span
        assert set(call.patches) == (before if n in MASK else span)


@pytest.mark.parametrize("recipe", [stack(Mask(MASK, 8)), Recipe(Mask(MASK, 8), Lagrange(1))], ids=["stack", "guided"])
def test_with_the_hosts_compile_on_the_model_the_same_is_skipped_and_made(models, recipe):
    compiled = models["flux"].clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    try:
        found = sample(host.attach(compiled, recipe), "flux")
    finally:
        torch.compiler.reset()
    assert [entry.computed for entry in newest(found).entries] == [n in MASK for n in range(8)]
    assert torch.equal(found, sample(host.attach(models["flux"], recipe), "flux"))


def test_a_patch_that_is_there_already_runs_inside_ours_and_only_where_its_block_runs(model, family):
    called = []

    def patch(args, extra):
        called.append(1)
        return extra["original_block"](args)

    patched = model.clone()
    patched.set_model_patch_replace(patch, "dit", "double_block", 0)
    plain = sample(model, family)
    assert torch.equal(plain, sample(host.attach(patched, stack(Never())), family))
    assert len(called) == 8
    called.clear()
    sample(host.attach(patched, stack(Mask(MASK, 8))), family)
    assert len(called) == 4
    assert patched.model_options["transformer_options"]["patches_replace"]["dit"] == {("double_block", 0): patch}


def test_conditions_keep_their_own_residuals(model, family):
    """Batched and split conditions, whose order and number of calls differ, give the same picture."""
    recipe = stack(Mask(MASK, 8), Lagrange(1))
    longer = prompt(5, 11)
    batched = sample(host.attach(model, recipe), family, cfg=3.0, positive=longer)
    twice = sample(host.attach(model, recipe), family, cfg=3.0, positive=longer)
    assert torch.equal(batched, twice)
    alone = sample(host.attach(model, recipe), family, cfg=1.0, positive=longer)
    assert not torch.equal(batched, alone)


def test_macs_of_skipped_blocks_are_not_counted(model, family):
    found = newest(sample(host.attach(model, stack(Mask(MASK, 8), head=1)), family))
    whole = newest(sample(host.attach(model, stack(Never(), head=1)), family))
    full = whole.entries[0].macs
    assert {entry.macs for entry in whole.entries} == {full}
    assert {entry.macs for entry in found.entries if entry.computed} == {full}
    (skipped,) = {entry.macs for entry in found.entries if not entry.computed}
    assert 0 < skipped < full
    again = newest(sample(host.attach(model, stack(Interval(2), head=1)), family, seed=2))
    assert {entry.macs for entry in again.entries} == {full, skipped}


def test_head_and_tail_that_leave_nothing_are_refused(model, family):
    with pytest.raises(RecipeError, match="leave none of the model's 3 blocks"):
        sample(host.attach(model, stack(Never(), head=2, tail=1)), family)


def test_a_control_net_inside_the_span_is_part_of_its_residual(models):
    """What the host adds after each block comes back with the residual, once."""
    adds = []

    def inject(executor, x, timestep, context, *args, **kwargs):
        options = next(value for value in args if isinstance(value, dict) and "uuids" in value)
        args = list(args)
        args[args.index(options) - 1] = {"input": [torch.full((1, 16, 128), 0.01)], "output": [torch.full((1, 16, 128), 0.02)]}
        adds.append(1)
        return executor(x, timestep, context, *args, **kwargs)

    from comfy.patcher_extension import WrappersMP

    controlled = models["flux"].clone()
    controlled.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "control", inject)
    plain = sample(controlled, "flux")
    assert torch.equal(plain, sample(host.attach(controlled, stack(Never())), "flux"))
    assert not torch.equal(plain, sample(models["flux"], "flux"))
    cached = sample(host.attach(controlled, stack(Mask(MASK, 8))), "flux")
    assert (cached - plain).norm() < 0.5 * plain.norm()
    assert len(adds) == 24
