"""The site BRANCH on real networks: attention, cross-attention and MLP of each block, each with its own switch and policy."""

from collections import Counter

import comfy.ldm.modules.attention
import comfy.model_management
import pytest
import torch
from host_models import newest, sample
from pack.cache_core import Branch, Recipe, RecipeError, Site, Span, Target
from pack.cache_core.policies import Mask, Never, PerBranch, PerPlace
from pack.cache_core.predictors import Hold, Lagrange
from pack.nodes.adapters import host
from test_sites import attributes, keys

pytestmark = pytest.mark.host
MASK = frozenset({0, 1, 4, 7})
ATTENTION, CROSS, MLP = Branch
SWITCHES = [frozenset(Branch), frozenset({ATTENTION}), frozenset({MLP}), frozenset({ATTENTION, CROSS})]
MODULES = {
    "flux": ("img_attn.qkv", "txt_attn.qkv", "img_attn.proj", "txt_attn.proj", "img_mlp", "txt_mlp", "linear1", "linear2"),
    "wan": ("self_attn", "cross_attn", "ffn"),
}


def branchwise(policy, predictor=None, branches=frozenset(Branch), **where):
    return Recipe(policy, predictor or Hold(), Site.BRANCH, branches=branches, **where)


class Forwards:
    """Counts how often each module of the blocks really works, and the attention itself, by kind of module."""

    def __init__(self, model, family, monkeypatch):
        self.calls = Counter()
        for name, module in model.model.diffusion_model.named_modules():
            kind = next((kind for kind in MODULES[family] if name.endswith(f".{kind}")), None)
            if kind is not None and "block" in name:
                monkeypatch.setattr(type(module), "forward", self._counting(type(module).forward), raising=True)
                module.counted = kind
        self._module = comfy.ldm.modules.attention

    def _counting(self, forward):
        if hasattr(forward, "counting"):
            return forward

        def counted(module, *args, **kwargs):
            if hasattr(module, "counted"):
                self.calls[module.counted] += 1
            return forward(module, *args, **kwargs)

        counted.counting = True
        return counted


@pytest.fixture
def calls(model, family, monkeypatch):
    yield Forwards(model, family, monkeypatch).calls
    for module in model.model.diffusion_model.modules():
        vars(module).pop("counted", None)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("branches", SWITCHES, ids=lambda branches: "+".join(sorted(branch.value for branch in branches)))
def test_a_policy_that_never_reuses_is_bit_identical(model, family, cfg, branches):
    plain = sample(model, family, cfg=cfg, batch=2)
    assert torch.equal(plain, sample(host.attach(model, branchwise(Never(), branches=branches)), family, cfg=cfg, batch=2))


@pytest.mark.parametrize(("cfg", "negative", "times"), [(1.0, 5, 1), (3.0, 5, 1), (3.0, 7, 2)])
def test_each_kind_of_branch_works_by_its_own_mask(model, family, calls, cfg, negative, times):
    each = PerBranch(Mask(MASK, 8), Mask(frozenset({0, 3}), 8), Mask(frozenset({0, 1, 2, 4, 6}), 8))
    sample(host.attach(model, branchwise(each)), family, cfg=cfg, negative_tokens=negative)
    if family == "wan":
        expected = {"self_attn": 3 * 4, "cross_attn": 3 * 2, "ffn": 3 * 5}
    else:
        expected = dict.fromkeys(MODULES["flux"][:4], 4) | {"img_mlp": 5, "txt_mlp": 5, "linear1": 2 * 4, "linear2": 2 * 4}
    assert calls == {kind: times * count for kind, count in expected.items()}


def test_a_branch_switched_off_always_works(model, family, calls):
    sample(host.attach(model, branchwise(Mask(MASK, 8), branches=frozenset({MLP}))), family)
    if family == "wan":
        assert calls == {"self_attn": 24, "cross_attn": 24, "ffn": 12}
    else:
        assert calls == dict.fromkeys(MODULES["flux"][:4], 8) | {"img_mlp": 4, "txt_mlp": 4, "linear1": 16, "linear2": 16}


def test_only_the_blocks_of_the_spans_are_touched(model, family, calls):
    sample(host.attach(model, branchwise(Mask(MASK, 8), spans=(Span(2),))), family)
    count = {"self_attn": 20, "cross_attn": 20, "ffn": 20} if family == "wan" else {"linear1": 12, "linear2": 12, "img_mlp": 8}
    assert count.items() <= calls.items()


def attention_calls(model, family, recipe):
    """How often the attention itself is made, and the result."""
    made = []

    def watch(attend, *args, **kwargs):
        made.append(1)
        return attend(*args, **kwargs)

    watched = model.clone()
    watched.model_options["transformer_options"]["optimized_attention_override"] = watch
    return len(made), sample(host.attach(watched, recipe), family), made


def test_the_attention_itself_is_skipped_with_its_branch_and_an_override_that_is_there_acts_inside_ours(model, family):
    _, found, made = attention_calls(model, family, branchwise(Mask(MASK, 8), branches=frozenset({ATTENTION})))
    assert len(made) == (3 * 4 if family == "flux" else 3 * 4 + 3 * 8)
    assert torch.isfinite(found).all()
    _, plain, made = attention_calls(model, family, branchwise(Never()))
    assert len(made) == (3 * 8 if family == "flux" else 6 * 8)
    assert torch.equal(plain, sample(model, family))


def test_what_a_network_has_not_is_said(models):
    flux = newest(sample(host.attach(models["flux"], branchwise(Mask(MASK, 8), branches=frozenset({MLP, CROSS}))), "flux"))
    assert any("no cross-attention of its own" in note for note in flux.notes)
    assert any("single blocks" in note for note in flux.notes)
    wan = newest(sample(host.attach(models["wan"], branchwise(Mask(MASK, 8))), "wan"))
    assert not wan.notes


def test_conditions_batched_and_split_give_the_same_picture(model, family, monkeypatch):
    cached = host.attach(model, branchwise(Mask(MASK, 8), Lagrange(1)))
    batched = sample(cached, family, cfg=3.0)
    assert torch.equal(batched, sample(cached, family, cfg=3.0))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda _=None, both=False: (0, 0) if both else 0)
    torch.testing.assert_close(batched, sample(cached, family, cfg=3.0), rtol=1e-3, atol=1e-4)


def test_a_patch_that_is_there_already_runs_inside_ours(model, family):
    called, patched = [], model.clone()
    patched.set_model_patch_replace(lambda args, extra: called.append(1) or extra["original_block"](args), "dit", *keys(family)[2])
    assert torch.equal(
        sample(host.attach(patched, branchwise(Mask(MASK, 8))), family), sample(host.attach(model, branchwise(Mask(MASK, 8))), family)
    )
    assert len(called) == 8


class TestNothingIsLeftBehind:
    @pytest.fixture
    def cached(self, model):
        return host.attach(model, branchwise(Mask(MASK, 8)))

    def test_after_a_run_and_after_a_run_cancelled_half_way(self, model, family, cached):
        before = attributes(model)
        first = sample(cached, family)
        assert attributes(model) == before

        def cancel(step, *_):
            if step == 3:
                raise comfy.model_management.InterruptProcessingException

        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(cached, family, callback=cancel)
        assert attributes(model) == before
        assert torch.equal(first, sample(cached, family))

    @pytest.mark.parametrize("call", [1, 3, 5])
    def test_after_an_error_inside_a_block(self, model, family, cached, call):
        """Call 1 is being counted, 3 is forecast (its attention answers, and the patch of another node fails), 5 is computed."""
        first, before, calls, patched = sample(cached, family), attributes(model), [], cached.clone()

        def fail(args, extra):
            calls.append(1)
            out = extra["original_block"](args)
            if len(calls) == call:
                raise ArithmeticError("a block failed")
            return out

        patched.set_model_patch_replace(fail, "dit", *keys(family)[1])
        with pytest.raises(ArithmeticError, match="a block failed"):
            sample(patched, family)
        assert attributes(model) == before
        assert torch.equal(first, sample(cached, family))

    def test_a_forward_that_someone_else_laid_over_is_called_and_put_back(self, model, family, cached):
        name = "ffn" if family == "wan" else "linear2"
        module = model.model.diffusion_model.get_submodule("blocks.0" if family == "wan" else "single_blocks.0").get_submodule(name)
        inner, called = module.forward, []

        def theirs(*args, **kwargs):
            called.append(1)
            return inner(*args, **kwargs)

        vars(module)["forward"] = theirs
        try:
            sample(cached, family)
            assert vars(module)["forward"] is theirs
            assert len(called) == 4
        finally:
            del vars(module)["forward"]


def test_branches_that_make_no_sense_are_refused():
    with pytest.raises(RecipeError, match="keep the output"):
        Recipe(Never(), Hold(), Site.BRANCH, Target.RESIDUAL)
    with pytest.raises(RecipeError, match="Switch one on"):
        branchwise(Never(), branches=frozenset())
    with pytest.raises(RecipeError, match="PerPlace got 0"):
        PerPlace(())
