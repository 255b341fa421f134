"""Every family's own network, made tiny: its blocks and branches are reached, and where they are not, the report says so."""

from collections import Counter

import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.hunyuan_video.model
import comfy.ldm.lightricks.model
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.ops
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from host_models import make, sample
from pack.cache_core import Branch, Probe, Recipe, Run, Schedule, Site, Target
from pack.cache_core.fallback import outside
from pack.cache_core.policies import Change, Drift, Interval, Mask, Never, PerPlace, Warmup, Within
from pack.cache_core.predictors import Hold, Lagrange, TwoAnchor
from pack.nodes.adapters import host, inside, options, reports

pytestmark = pytest.mark.host
SCHEDULE = Schedule((1.0, 0.8, 0.6, 0.4, 0.2, 0.0))
MASK = Mask(frozenset({0, 1, 3}), 5)
KINDS = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "cpu"}
FLUX = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32, "context_in_dim": 64, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 1, "depth": 2, "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = FLUX | {
    "in_channels": 32, "out_channels": 32, "patch_size": 1, "vec_in_dim": None, "axes_dim": [32] * 4, "theta": 2000, "qkv_bias": False,
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "txt_ids_dims": [3], "mlp_ratio": 3.0,
}  # fmt: skip
CHROMA = {key: FLUX[key] for key in FLUX if key not in ("guidance_embed",)} | {
    "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "in_dim": 64, "out_dim": 128, "hidden_dim": 64, "n_layers": 1,
}  # fmt: skip
HUNYUAN = {key: FLUX[key] for key in FLUX if key not in ("txt_ids_dims", "in_channels")} | {
    "in_channels": 16, "patch_size": [1, 2, 2], "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
WAN = {
    "dim": 128, "ffn_dim": 256, "freq_dim": 256, "text_dim": 64, "in_dim": 16, "out_dim": 16, "num_heads": 1, "num_layers": 3,
    "patch_size": (1, 2, 2), "cross_attn_norm": True,
}  # fmt: skip
IMAGE, VIDEO, TEXT = (
    torch.zeros(1, 16, 8, 8),
    torch.zeros(1, 16, 3, 8, 8),
    torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(3)),
)


def flux(**extra):
    return comfy.ldm.flux.model.Flux(**FLUX | extra, **KINDS)


def wan(kind=comfy.ldm.wan.model.WanModel, **extra):
    return kind(**WAN | extra, **KINDS)


def qwen():
    return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        in_channels=64, num_layers=3, num_attention_heads=1, joint_attention_dim=64, **KINDS
    )


def ltxv():
    return comfy.ldm.lightricks.model.LTXVModel(
        in_channels=16, cross_attention_dim=128, num_attention_heads=2, caption_channels=64, num_layers=3, **KINDS
    )


GUIDED = {"y": torch.ones(1, 32), "guidance": torch.tensor([3.5])}
FAMILIES = {  # how it is made, its latent, what else it is called with, and how many blocks it has
    "Flux": (flux, IMAGE, GUIDED, 4),
    "Flux Kontext": (flux, IMAGE, GUIDED | {"ref_latents": [torch.ones(1, 16, 6, 6)]}, 4),
    "Flux Fill": (lambda: flux(in_channels=96), torch.zeros(1, 96, 8, 8), GUIDED, 4),
    "Flux 2": (lambda: comfy.ldm.flux.model.Flux(**FLUX2, **KINDS), torch.zeros(1, 32, 4, 4), {"guidance": torch.tensor([3.5])}, 4),
    "Chroma": (lambda: comfy.ldm.chroma.model.Chroma(**CHROMA, **KINDS), IMAGE, {"guidance": torch.tensor([0.0])}, 4),
    "HunyuanVideo": (lambda: comfy.ldm.hunyuan_video.model.HunyuanVideo(**HUNYUAN, **KINDS), VIDEO, GUIDED, 4),
    "Qwen-Image": (qwen, IMAGE[:, :, None], {}, 3),
    "LTXV": (ltxv, VIDEO, {"attention_mask": None}, 3),
    "Wan 2.1": (wan, VIDEO, {}, 3),
    "Wan 2.1 I2V": (lambda: wan(model_type="i2v", in_dim=36), torch.zeros(1, 36, 3, 8, 8), {"clip_fea": torch.ones(1, 257, 1280)}, 3),
    "Wan VACE": (
        lambda: wan(comfy.ldm.wan.model.VaceWanModel, vace_layers=3, vace_in_dim=96),
        VIDEO,
        {"vace_context": torch.ones(1, 1, 96, 3, 8, 8), "vace_strength": [1.0]},
        3,
    ),
    "Wan 2.2 5B": (lambda: wan(in_dim=48, out_dim=48), torch.zeros(1, 48, 3, 8, 8), {}, 3),
}


def fill(network):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            plain = torch.randn(value.shape, generator=generator)
            if value.ndim > 1 and "modulation" not in name and "table" not in name:
                value.copy_(plain / value[0].numel() ** 0.5)
            else:
                value.copy_(1.0 + 0 * plain if "norm" in name and "bias" not in name else 0.1 * plain)
    return network.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    build, latent, extra, blocks = FAMILIES[request.param]
    return request.param, fill(build()), latent, extra, blocks


def walk(network, latent, extra, recipe=None, family="", text=TEXT):
    """Euler steps with the network itself; returns the last latent, the run and how often each block was called."""
    run, calls = Run(recipe or Recipe(Never(), Hold()), SCHEDULE), Counter()
    if recipe is not None:
        inside.check(run, network, compiled=False)
    hooks = [
        block.register_forward_hook(lambda module, args, y, name=name: calls.update([name]))
        for name, block in network.named_modules()
        if name.rsplit(".", 1)[0] in ("blocks", "double_blocks", "single_blocks", "transformer_blocks") and name[-1].isdigit()
    ]
    x = latent + torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    for n, sigma in enumerate(SCHEDULE.sigmas[:-1]):
        time = torch.full((1, latent.shape[2]) if family == "Wan 2.2 5B" else (1,), sigma * (1000 if "Wan" in family else 1))
        passed = {"uuids": ["one"], "sigmas": time}
        if recipe is not None:
            passed |= {options.KEY: run, "wrappers": {WrappersMP.DIFFUSION_MODEL: {options.KEY: [host._blocks]}}}
        run.begin(sigma, x)
        with torch.inference_mode():
            y = network(x, time, context=text, transformer_options=passed, **extra)
        run.end()
        x = x.clone()
        x[:, : y.shape[1]] += (SCHEDULE.sigmas[n + 1] - sigma) * y
    for hook in hooks:
        hook.remove()
    run.ledger.settle()
    return x, run, calls


def at(site, policy=MASK, predictor=None, **more):
    target = Target.OUTPUT if site is Site.BRANCH else Target.RESIDUAL
    return Recipe(policy, predictor or Hold(), site, target, **more)


INSIDE = [Site.STACK, Site.BLOCK, Site.BRANCH]


@pytest.mark.parametrize("site", INSIDE, ids=lambda site: site.value)
def test_never_reusing_is_bit_identical_on_every_family(case, site):
    family, network, latent, extra, blocks = case
    plain, _, calls = walk(network, latent, extra, family=family)
    assert torch.isfinite(plain).all()
    assert sorted(calls.values()) == [5] * blocks
    found, run, _ = walk(network, latent, extra, at(site, Never()), family)
    assert torch.equal(plain, found)
    assert run.recipe.site is site
    assert not run.ledger.notes or site is Site.BRANCH


@pytest.mark.parametrize("site", [Site.STACK, Site.BLOCK], ids=lambda site: site.value)
def test_a_mask_skips_the_blocks_of_every_family(case, site):
    family, network, latent, extra, blocks = case
    found, run, calls = walk(network, latent, extra, at(site, predictor=Lagrange(1)), family)
    assert sorted(calls.values()) == [3] * blocks
    assert torch.isfinite(found).all()
    assert run.ledger.computed == 3


def test_a_mask_skips_the_branches_of_every_family(case, monkeypatch):
    """All matrix products of the blocks' attention and MLP are left out: the calls of those layers fall by the mask's share."""
    family, network, latent, extra, _ = case
    made = Counter()
    patched = comfy.ops.disable_weight_init.Linear.forward

    def counted(module, *args, **kwargs):
        made[module.place] += 1
        return patched(module, *args, **kwargs)

    monkeypatch.setattr(comfy.ops.disable_weight_init.Linear, "forward", counted)
    for name, module in network.named_modules():
        module.place = name
    found, run, calls = walk(network, latent, extra, at(Site.BRANCH), family)
    assert set(calls.values()) == {5}, "the blocks themselves always run"
    assert torch.isfinite(found).all()
    prefixes = ("blocks.", "double_blocks.", "single_blocks.", "transformer_blocks.")
    inner = {name: count for name, count in made.items() if name.startswith(prefixes) and "mod" not in name}
    assert set(inner.values()) == {3}, inner
    assert [entry.share for entry in run.ledger.entries] == [1.0, 1.0, 0.0, 1.0, 0.0]
    expected = (
        []
        if "Wan" in family or family == "LTXV"
        else [f"{type(network).__name__} has no cross-attention of its own, so there is none to skip."]
    )
    assert run.ledger.notes == expected


def test_text_and_picture_of_one_length_are_kept_apart():
    """Qwen-Image's attention returns both: of 16 tokens each, four outputs are kept for each of 3 blocks."""
    build, latent, _, _ = FAMILIES["Qwen-Image"]
    network, long = fill(build()), torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(4))
    _, run, _ = walk(network, latent, {}, at(Site.BRANCH), text=long)
    assert run.ledger.peak_bytes == 3 * 4 * 16 * 128 * 4


@pytest.mark.parametrize("probe", [Probe.MODULATED, Probe.FIRST_BLOCK])
def test_every_family_can_show_what_policies_look_at(case, probe):
    family, network, latent, extra, blocks = case
    found, run, calls = walk(network, latent, extra, at(Site.STACK, Drift(1e9, probe), head=1), family)
    assert sorted(calls.values()) == [1] * (blocks - 1) + [5]
    assert run.ledger.reused == 4
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith(("Wan", "LTXV"))])
def test_the_modulated_input_is_what_the_first_blocks_attention_gets(family):
    """Wan's and LTXV's is the time embedding, as TeaCache's authors have it."""
    build, latent, extra, _ = FAMILIES[family]
    network = fill(build())
    shown, given = [], []

    class Spy(Drift):
        def propose(self, state, seen):
            shown.append(seen.probe.clone())
            return Drift.propose(self, state, seen)

    first = getattr(network, "double_blocks", None) or network.transformer_blocks
    layer = first[0].img_attn.qkv if hasattr(first[0], "img_attn") else first[0].attn.to_q
    hook = layer.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    walk(network, latent, extra, at(Site.STACK, Spy(0.0)), family)
    hook.remove()
    for seen, got in zip(shown, given, strict=True):
        torch.testing.assert_close(seen, got)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("Wan")])
def test_wan_shows_the_time_embedding_that_it_makes_itself(family):
    build, latent, extra, _ = FAMILIES[family]
    network, shown, made = fill(build()), [], []

    class Spy(Drift):
        def propose(self, state, seen):
            shown.append(seen.probe.clone())
            return Drift.propose(self, state, seen)

    hook = network.time_projection.register_forward_pre_hook(lambda module, args: made.append(args[0].clone()))
    walk(network, latent, extra, at(Site.STACK, Spy(0.0, Probe.EMBEDDING)), family)
    hook.remove()
    assert len(shown) == len(made) == 5
    assert all(torch.equal(ours.flatten(), own.flatten()) for ours, own in zip(shown, made, strict=True))
    assert not torch.equal(shown[0], shown[1])


class TestWhereTheInsideCannotBeReached:
    @staticmethod
    def unknown(network):
        return type("SomeNewTransformer", (torch.nn.Module,), {})()

    @pytest.mark.parametrize("site", INSIDE, ids=lambda site: site.value)
    def test_an_unknown_network_falls_back_to_cond_and_the_report_says_so(self, site):
        run = Run(at(site, predictor=Lagrange(1), name="Method"), SCHEDULE)
        inside.check(run, self.unknown(None), compiled=False)
        assert (run.recipe.site, run.recipe.target, run.ledger.site) == (Site.COND, Target.OUTPUT, "cond")
        assert (run.recipe.policy, run.recipe.predictor) == (MASK, Lagrange(1))
        assert run.ledger.notes == [
            "Encore knows no way to the transformer blocks of SomeNewTransformer. "
            "Method caches whole predictions of each condition instead (site cond)."
        ]

    def test_a_policy_that_looks_inside_is_shown_the_latent(self):
        recipe, told = outside(at(Site.STACK, Within(Warmup(Change(0.1), 2), 0.1, 0.9), TwoAnchor(), head=1))
        assert recipe.policy == Within(Warmup(Change(0.1, Probe.LATENT), 2), 0.1, 0.9)
        assert (recipe.predictor, recipe.head) == (Hold(), 0)
        assert "latent instead of the first-block residual" in told
        assert "holds the last prediction" in told

    def test_a_polynomial_fitted_inside_is_left_out(self):
        recipe, _ = outside(at(Site.STACK, Drift(0.4, polynomial=(3.0, 2.0))))
        assert recipe.policy == Drift(0.4, Probe.LATENT)

    def test_of_policies_for_many_places_the_first_is_taken(self):
        recipe, told = outside(at(Site.BLOCK, PerPlace((Interval(2), Interval(3)))))
        assert recipe.policy == Interval(2)
        assert "first policy" in told

    def test_a_policy_that_cannot_be_shown_anything_else_computes(self):
        class Inner(type(Never())):
            probe = Probe.MODULATED

        recipe, told = outside(at(Site.STACK, Warmup(Inner(), 1)))
        assert isinstance(recipe.policy, Never)
        assert "computes everything" in told

    def test_attributes_that_the_loaded_host_lacks_are_named(self):
        network = wan()
        network.layers = network.blocks
        del network.blocks
        assert "has no 'blocks'" in inside.unreachable(network, at(Site.STACK))
        network = wan()
        for block in network.blocks:
            block.feed_forward = block.ffn
            del block.ffn
        assert "no double_block.ffn" in inside.unreachable(network, at(Site.BRANCH))
        assert inside.unreachable(network, at(Site.BLOCK)) is None

    @pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("Wan")])
    def test_a_time_embedding_that_a_family_does_not_make_falls_back_and_the_report_says_so(self, family):
        network, _, _, _ = FAMILIES[family]
        run = Run(at(Site.STACK, Drift(0.1, Probe.EMBEDDING), name="TeaCache"), SCHEDULE)
        inside.check(run, network(), compiled=False)
        assert run.recipe.site is Site.COND
        assert "makes no time embedding that Encore could show: take a table of the model's own family." in run.ledger.notes[0]

    def test_branches_of_a_compiled_network_are_left_alone(self):
        assert "compiled" in inside.unreachable(wan(), at(Site.BRANCH), compiled=True)
        assert inside.unreachable(wan(), at(Site.STACK), compiled=True) is None

    def test_switches_that_a_network_has_no_branch_for_fall_back(self):
        found = inside.unreachable(flux(), at(Site.BRANCH, branches=frozenset({Branch.CROSS})))
        assert found == "Flux has none of cross-attention in a form that can be skipped alone."

    @pytest.mark.parametrize("site", INSIDE, ids=lambda site: site.value)
    def test_a_forward_replaced_by_another_node_is_noticed_in_the_first_call(self, site):
        """A pack that replaces forward_orig never calls the blocks' patches: the mask goes on at the site cond."""
        model = make("wan")
        network = model.model.diffusion_model
        original, plain = type(network).forward_orig, sample(model, "wan", cfg=3.0)

        def replaced(x, t, context, transformer_options=None, **kwargs):
            return original(network, x, t, context, transformer_options={**transformer_options, "patches_replace": {}}, **kwargs)

        vars(network)["forward_orig"] = replaced
        latent = sample(host.attach(model, at(site, Mask(frozenset({0, 1, 4, 7}), 8))), "wan", cfg=3.0)
        found = reports.find(latent)[0]
        assert [entry.step for entry in found.entries if entry.computed] == [0, 1, 4, 7]
        assert found.site == "cond"
        assert "WanModel never called its first block through its patch" in found.notes[0]
        assert not torch.equal(plain, latent)

    def test_arguments_of_another_name_or_kind_are_noticed_and_everything_in_that_call_computed(self):
        model = make("wan")
        network = model.model.diffusion_model
        plain = sample(model, "wan")
        unlike = host.inside.blocks_of(network).unlike({"x": torch.zeros(1), "img": (torch.zeros(1),) * 2}, ("double_block", 0))
        assert unlike == "Block 0 of this ComfyUI was called with x, img, and a tensor img was expected."
        original = type(network).forward_orig

        def renamed(x, t, context, transformer_options=None, **kwargs):
            dit = transformer_options["patches_replace"]["dit"]

            def other(patch):
                def called(args, extra):
                    given = {**args, "x": args["img"]}
                    del given["img"]
                    return patch(given, {"original_block": lambda found: extra["original_block"]({**found, "img": found["x"]})})

                return called

            laid = {key: other(patch) for key, patch in dit.items()}
            return original(network, x, t, context, transformer_options={**transformer_options, "patches_replace": {"dit": laid}}, **kwargs)

        vars(network)["forward_orig"] = lambda *args, **kwargs: (
            renamed(*args, **kwargs) if kwargs["transformer_options"].get("patches_replace") else original(network, *args, **kwargs)
        )
        for site in INSIDE:
            found = reports.find(sample(host.attach(model, at(site, Never())), "wan"))[0]
            assert found.site == "cond"
            assert "a tensor img was expected" in found.notes[0]
        assert torch.equal(plain, sample(host.attach(model, at(Site.BLOCK, Never())), "wan"))
