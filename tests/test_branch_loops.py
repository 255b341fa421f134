"""Branches held by a mask against plain loops over the networks' own layers, and what skipping them saves."""

import pytest
import torch
from host_models import sample
from pack.cache_core.policies import Mask, Never
from pack.nodes.adapters import host
from test_branches import ATTENTION, CROSS, MASK, MLP, MODULES, branchwise, newest

pytestmark = pytest.mark.host


def test_wan_branches_held_by_a_mask_are_the_plain_loop(models):
    """Written over again: every second output of three modules, held by forwards of our own for the whole sampling."""
    model, step, kept = models["wan"], {"n": -1}, {}

    def replaced(module, name):
        inner = module.forward

        def forward(*args, **kwargs):
            if step["n"] in MASK:
                kept[name] = inner(*args, **kwargs).clone()
            return kept[name]

        return forward

    def count(args, extra):
        step["n"] += 1
        return extra["original_block"](args)

    by_hand = model.clone()
    by_hand.set_model_patch_replace(count, "dit", "double_block", 0)
    modules = {name: part for name, part in model.model.diffusion_model.named_modules() if name.endswith(MODULES["wan"])}
    for name, module in modules.items():
        vars(module)["forward"] = replaced(module, name)
    expected = sample(by_hand, "wan")
    for module in modules.values():
        del vars(module)["forward"]
    assert len(modules) == 9
    assert torch.equal(expected, sample(host.attach(model, branchwise(Mask(MASK, 8))), "wan"))


class HeldFlux:
    """Flux's blocks written over again from their layers, with both attention outputs, both MLPs and the single blocks' sums held."""

    def __init__(self, network):
        self.network, self.kept, self.step = network, {}, -1

    def hold(self, name, value):
        if self.step in MASK:
            self.kept[name] = value.clone()
        return self.kept[name]

    @staticmethod
    def run(args, extra, layers):
        """Outputs of the layers in a run of the block on copies."""
        found = []
        hooks = [layer.register_forward_hook(lambda module, given, y: found.append(y.clone())) for layer in layers]
        extra["original_block"]({**args, **{name: args[name].clone() for name in ("img", "txt") if name in args}})
        for hook in hooks:
            hook.remove()
        return found

    def double(self, args, extra):
        self.step += 1
        block, result = self.network.double_blocks[0], {}
        attention = self.run(args, extra, [block.img_attn.proj, block.txt_attn.proj])
        for name, attended in zip(("img", "txt"), attention, strict=True):
            first, second = getattr(block, f"{name}_mod")(args["vec"])
            x = args[name] + self.hold(f"{name} attention", attended) * first.gate
            y = getattr(block, f"{name}_norm2")(x) * (1 + second.scale) + second.shift
            result[name] = x + self.hold(f"{name} mlp", getattr(block, f"{name}_mlp")(y)) * second.gate
        return result

    def single(self, args, extra):
        index = args["transformer_options"]["block_index"]
        block = self.network.single_blocks[index]
        mod, _ = block.modulation(args["vec"])
        return {"img": args["img"] + self.hold(index, self.run(args, extra, [block.linear2])[0]) * mod.gate}


def test_flux_branches_held_by_a_mask_are_the_plain_loop(models):
    model = models["flux"]
    loop, by_hand = HeldFlux(model.model.diffusion_model), model.clone()
    by_hand.set_model_patch_replace(loop.double, "dit", "double_block", 0)
    by_hand.set_model_patch_replace(loop.single, "dit", "single_block", 0)
    by_hand.set_model_patch_replace(loop.single, "dit", "single_block", 1)
    found = sample(host.attach(model, branchwise(Mask(MASK, 8))), "flux")
    torch.testing.assert_close(sample(by_hand, "flux"), found, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, sample(model, "flux"), rtol=1e-2)


def test_macs_of_the_branches_skipped_are_taken_off(model, family):
    full = newest(sample(host.attach(model, branchwise(Never())), family)).entries[0].macs

    def skipped(branches):
        entries = newest(sample(host.attach(model, branchwise(Mask(MASK, 8), branches=branches)), family)).entries
        assert {entry.macs for entry in entries if entry.computed} == {full}
        (cost,) = {full - entry.macs for entry in entries if not entry.computed}
        return cost

    d, text, tokens = 128, 5, 16 if family == "flux" else 48
    if family == "wan":
        core, cross = 2 * tokens * tokens * d, 2 * tokens * text * d
        expected = {
            ATTENTION: 4 * tokens * d * d + core,
            CROSS: 2 * tokens * d * d + 2 * text * d * d + cross,
            MLP: 2 * tokens * d * 256,
        }
        for branch, cost in expected.items():
            assert skipped(frozenset({branch})) == 3 * cost, branch
    else:
        both = tokens + text
        core = 2 * both * both * d
        double_attention, double_mlp = 4 * both * d * d + core, 2 * both * d * 4 * d
        assert skipped(frozenset({MLP})) == double_mlp
        assert skipped(frozenset({ATTENTION})) == double_attention + 2 * core
        assert skipped(frozenset({ATTENTION, MLP})) == double_attention + double_mlp + 2 * (both * d * 7 * d + both * 5 * d * d + core)


def test_macs_are_right_even_in_a_form_of_call_first_seen_where_branches_are_skipped(model, family, monkeypatch):
    recipe = branchwise(Mask(frozenset({0, 1, 2, 3, 4}), 8))
    known = newest(sample(host.attach(model, recipe), family)).entries[7].macs
    monkeypatch.setattr(host, "_meters", type(host._meters)())
    fresh = host.Meter.through

    def forgetful(self, call, key, counting):
        self._totals.clear()
        return fresh(self, call, key, counting)

    monkeypatch.setattr(host.Meter, "through", forgetful)
    assert newest(sample(host.attach(model, recipe), family)).entries[7].macs == known
