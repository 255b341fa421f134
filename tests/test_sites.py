"""The sites inside the network on real networks: blocks, spans and branches, each decided on its own."""

import comfy.model_management
import pytest
import torch
from host_models import BLOCKS, BlockCalls, newest, prompt, sample
from pack.cache_core import Probe, Recipe, RecipeError, Site, Span, Target
from pack.cache_core.policies import AccumulatedError, Change, Interval, Mask, Never, PerPlace, Within
from pack.cache_core.predictors import Hold, Lagrange
from pack.nodes.adapters import host

pytestmark = pytest.mark.host
MASK = frozenset({0, 1, 4, 7})
MASKS = [frozenset({0, 2, 4, 6}), frozenset({0, 1, 2, 5, 7}), frozenset({0, 7})]


def keys(family):
    return [("double_block", 0), ("single_block", 0), ("single_block", 1)] if family == "flux" else [("double_block", n) for n in range(3)]


def tokens(found, key, family):
    return torch.cat([found["txt"], found["img"]], 1) if family == "flux" and key[0] == "double_block" else found["img"]


def spread(found, new, key, family):
    """`found` with the tokens `new`."""
    if family == "flux" and key[0] == "double_block":
        length = found["txt"].shape[1]
        return {**found, "txt": new[:, :length], "img": new[:, length:]}
    return {**found, "img": new}


def blockwise(policy, predictor=None, target=Target.RESIDUAL, **where):
    return Recipe(policy, predictor or Hold(), Site.BLOCK, target, **where)


def masks():
    return PerPlace(tuple(Mask(mask, 8) for mask in MASKS))


class TestBlocks:
    @pytest.mark.parametrize("cfg", [1.0, 3.0])
    @pytest.mark.parametrize("target", list(Target))
    def test_a_policy_that_never_reuses_is_bit_identical(self, model, family, cfg, target):
        plain = sample(model, family, cfg=cfg, batch=2)
        assert torch.equal(plain, sample(host.attach(model, blockwise(Never(), target=target)), family, cfg=cfg, batch=2))

    @pytest.mark.parametrize(("cfg", "negative", "calls"), [(1.0, 5, 1), (3.0, 5, 1), (3.0, 7, 2)])
    def test_each_block_runs_by_its_own_mask(self, model, family, cfg, negative, calls):
        with BlockCalls(model) as counted:
            latent = sample(host.attach(model, blockwise(masks())), family, cfg=cfg, negative_tokens=negative)
        assert [counted.calls[name] for name in block_names(family)] == [calls * len(mask) for mask in MASKS]
        assert newest(latent).computed == 7, "at step 3 no mask computes"

    def test_only_the_blocks_of_the_spans_are_cached(self, model, family):
        with BlockCalls(model) as counted:
            sample(host.attach(model, blockwise(Mask(MASK, 8), spans=(Span(0, 1), Span(-1)))), family)
        assert [counted.calls[name] for name in block_names(family)] == [4, 8, 4]

    def test_the_blocks_held_by_their_masks_are_the_plain_loop(self, model, family):
        """Hold each block's residual by hand, with the host's own block patches."""
        by_hand, step = model.clone(), {"n": -1}

        def held(index, key):
            kept = {}

            def patch(args, extra):
                step["n"] += index == 0
                before = tokens(args, key, family).clone()
                if step["n"] not in MASKS[index]:
                    return spread(args, before + kept["residual"], key, family)
                out = extra["original_block"](args)
                kept["residual"] = tokens(out, key, family) - before
                return out

            return patch

        for index, key in enumerate(keys(family)):
            by_hand.set_model_patch_replace(held(index, key), "dit", *key)
        assert torch.equal(sample(by_hand, family), sample(host.attach(model, blockwise(masks())), family))

    def test_blocks_are_forecast_from_their_own_past(self, model, family):
        line, held = (host.attach(model, blockwise(Mask(MASK, 8), predictor)) for predictor in (Lagrange(1), Hold()))
        assert not torch.equal(sample(line, family), sample(held, family))

    def test_what_the_policy_sees_is_the_first_blocks_residual_at_every_block(self, model, family):
        always = blockwise(Change(1e9), head=1)
        never = blockwise(Change(0.0), head=1)
        with BlockCalls(model) as counted:
            sample(host.attach(model, always), family)
        assert [counted.calls[name] for name in block_names(family)] == [8, 1, 1]
        assert torch.equal(sample(model, family), sample(host.attach(model, never), family))

    def test_every_block_is_shown_the_same(self, model, family):
        shown = {}

        class Spy(Change):
            def propose(self, state, seen):
                shown.setdefault(seen.step.index, []).append(seen.probe)
                return Change.propose(self, state, seen)

        sample(host.attach(model, blockwise(Spy(0.0), head=1)), family)
        assert {len(probes) for probes in shown.values()} == {BLOCKS[family] - 1}
        assert all(torch.equal(probe, probes[0]) for probes in shown.values() for probe in probes)

    def test_a_patch_that_is_there_already_runs_inside_ours_and_only_where_its_block_runs(self, model, family):
        called = []

        def patch(args, extra):
            called.append(1)
            return extra["original_block"](args)

        patched = model.clone()
        patched.set_model_patch_replace(patch, "dit", "double_block", 0)
        assert torch.equal(sample(model, family), sample(host.attach(patched, blockwise(Never())), family))
        assert len(called) == 8
        sample(host.attach(patched, blockwise(masks())), family)
        assert len(called) == 8 + len(MASKS[0])
        assert patched.model_options["transformer_options"]["patches_replace"]["dit"] == {("double_block", 0): patch}

    def test_macs_of_each_block_skipped_are_taken_off(self, model, family):
        found = newest(sample(host.attach(model, blockwise(masks())), family))
        full = newest(sample(host.attach(model, blockwise(Never())), family)).entries[0].macs
        costs = []
        for n in range(BLOCKS[family]):
            alone = PerPlace(tuple(Mask(frozenset({0}) if n == k else frozenset(range(8)), 8) for k in range(BLOCKS[family])))
            costs.append(full - newest(sample(host.attach(model, blockwise(alone)), family)).entries[1].macs)
        assert min(costs) > 0
        assert [entry.macs for entry in found.entries] == [
            full - sum(c for c, m in zip(costs, MASKS, strict=True) if n not in m) for n in range(8)
        ]
        assert found.macs_if_computed == 8 * full

    def test_a_partly_computed_evaluation_says_how_many_parts_were(self, model, family):
        entries = newest(sample(host.attach(model, blockwise(masks())), family)).entries
        assert [entry.share for entry in entries] == [sum(n in mask for mask in MASKS) / 3 for n in range(8)]
        assert entries[1].reason.startswith("1 of 3 parts")
        assert entries[0].reason == "nothing cached yet"

    def test_exams_of_every_block_are_made_only_if_the_policy_goes_by_them(self, model, family):
        silent = newest(sample(host.attach(model, blockwise(masks())), family)).entries
        assert {entry.error for entry in silent} == {None}
        closed = newest(sample(host.attach(model, blockwise(Within(AccumulatedError(1e9)))), family)).entries
        assert [entry.error is not None for entry in closed] == [False, True, *[False] * 6]
        assert [entry.computed for entry in closed] == [True, True, *[False] * 6]

    def test_too_few_policies_for_the_blocks_are_refused(self, model, family):
        with pytest.raises(RecipeError, match="PerPlace has 2 policies"):
            sample(host.attach(model, blockwise(PerPlace((Never(), Never())))), family)


def block_names(family):
    return ["double_blocks.0", "single_blocks.0", "single_blocks.1"] if family == "flux" else [f"blocks.{n}" for n in range(3)]


class TestSpans:
    def test_two_spans_of_the_stack_are_decided_on_their_own(self, model, family):
        """Delta-DiT's form: the rear span is reused in the first half, the front span in the second."""
        phases = PerPlace((Within(Interval(2), 0.5, 1.0), Within(Interval(2), 0.0, 0.5)))
        recipe = Recipe(phases, Hold(), Site.STACK, Target.RESIDUAL, spans=(Span(0, 1), Span(-2)))
        with BlockCalls(model) as counted:
            latent = sample(host.attach(model, recipe), family)
        assert [counted.calls[name] for name in block_names(family)] == [6, 6, 6]
        assert [entry.share for entry in newest(latent).entries] == [1.0, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5, 1.0]

    @pytest.mark.parametrize("spans", [(Span(0, 2), Span(1)), (Span(5),), (Span(2, 1),)])
    def test_spans_that_overlap_or_are_empty_are_refused(self, model, family, spans):
        with pytest.raises(RecipeError, match="model's 3 blocks"):
            sample(host.attach(model, Recipe(Never(), Hold(), Site.STACK, spans=spans)), family)


@pytest.fixture(params=["block", "spans"])
def recipe(request):
    inside = {"block": blockwise(masks(), Lagrange(1))}
    inside["spans"] = Recipe(Mask(MASK, 8), Lagrange(1), Site.STACK, Target.RESIDUAL, spans=(Span(0, 1), Span(-1)))
    return inside[request.param]


class TestNothingIsLeftBehind:
    def test_a_run_cancelled_half_way_leaves_no_trace(self, model, family, recipe):
        cached, before = host.attach(model, recipe), attributes(model)
        first = sample(cached, family)

        def cancel(step, *_):
            if step == 3:
                raise comfy.model_management.InterruptProcessingException

        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(cached, family, callback=cancel)
        assert attributes(model) == before
        assert torch.equal(first, sample(cached, family))

    def test_an_error_inside_a_block_leaves_no_trace(self, model, family, recipe):
        cached, before = host.attach(model, recipe), attributes(model)
        first, calls = sample(cached, family), []

        def fail(*_):
            calls.append(1)
            if len(calls) == 2:
                raise ArithmeticError("a block failed")

        last = model.model.diffusion_model.get_submodule(block_names(family)[-1])
        part = last.ffn if family == "wan" else last.linear2
        hook = part.register_forward_pre_hook(fail)
        with pytest.raises(ArithmeticError, match="a block failed"):
            sample(cached, family)
        hook.remove()
        assert attributes(model) == before
        assert torch.equal(first, sample(cached, family))

    def test_conditions_batched_and_split_give_the_same_picture(self, model, family, recipe, monkeypatch):
        cached = host.attach(model, recipe)
        batched = sample(cached, family, cfg=3.0)
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda _=None, both=False: (0, 0) if both else 0)
        torch.testing.assert_close(batched, sample(cached, family, cfg=3.0), rtol=1e-3, atol=1e-4)

    def test_a_condition_that_begins_in_mid_run_is_computed_when_it_begins(self, model, family, recipe):
        late = prompt(5, 11) + prompt(5, 13, start_percent=0.5, end_percent=1.0)
        latent = sample(host.attach(model, recipe), family, positive=late)
        assert torch.isfinite(latent).all()


def attributes(model):
    """All that hangs on the network's modules, hooks included."""
    found = {}
    for name, part in model.model.diffusion_model.named_modules():
        found[name] = {key: len(value) if key.endswith("_hooks") else None for key, value in vars(part).items()}
    return found


def test_probes_of_the_network_are_refused_outside_of_it_and_at_branches():
    for site in (Site.GUIDED, Site.COND, Site.BRANCH):
        with pytest.raises(RecipeError, match="stack or block"):
            Recipe(Change(0.1, Probe.FIRST_BLOCK), Hold(), site)
