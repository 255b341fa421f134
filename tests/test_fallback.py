"""Where the inside of a network cannot be reached, the recipe goes on outside of it, and the report says so."""

import pytest
import torch
from families import FAMILIES, INSIDE, MASK, SCHEDULE, at, flux, wan
from host_models import make, sample
from pack.cache_core import Branch, Probe, Run, Site, Target
from pack.cache_core.fallback import outside
from pack.cache_core.policies import Change, Drift, Interval, Mask, Never, PerPlace, Warmup, Within
from pack.cache_core.predictors import Hold, Lagrange, TwoAnchor
from pack.nodes.adapters import host, inside, reports

pytestmark = pytest.mark.host


def unknown():
    return type("SomeNewTransformer", (torch.nn.Module,), {})()


@pytest.mark.parametrize("site", INSIDE, ids=lambda site: site.value)
def test_an_unknown_network_falls_back_to_cond_and_the_report_says_so(site):
    run = Run(at(site, predictor=Lagrange(1), name="Method"), SCHEDULE)
    inside.check(run, unknown(), compiled=False)
    assert (run.recipe.site, run.recipe.target, run.ledger.site) == (Site.COND, Target.OUTPUT, "cond")
    assert (run.recipe.policy, run.recipe.predictor) == (MASK, Lagrange(1))
    assert run.ledger.notes == [
        "Encore knows no way to the transformer blocks of SomeNewTransformer. "
        "Method caches whole predictions of each condition instead (site cond)."
    ]


def test_a_policy_that_looks_inside_is_shown_the_latent():
    recipe, told = outside(at(Site.STACK, Within(Warmup(Change(0.1), 2), 0.1, 0.9), TwoAnchor(), head=1))
    assert recipe.policy == Within(Warmup(Change(0.1, Probe.LATENT), 2), 0.1, 0.9)
    assert (recipe.predictor, recipe.head) == (Hold(), 0)
    assert "latent instead of the first-block residual" in told
    assert "holds the last prediction" in told


def test_a_polynomial_fitted_inside_is_left_out():
    recipe, _ = outside(at(Site.STACK, Drift(0.4, polynomial=(3.0, 2.0))))
    assert recipe.policy == Drift(0.4, Probe.LATENT)


def test_of_policies_for_many_places_the_first_is_taken():
    recipe, told = outside(at(Site.BLOCK, PerPlace((Interval(2), Interval(3)))))
    assert recipe.policy == Interval(2)
    assert "first policy" in told


def test_a_policy_that_cannot_be_shown_anything_else_computes():
    class Inner(type(Never())):
        probe = Probe.MODULATED

    recipe, told = outside(at(Site.STACK, Warmup(Inner(), 1)))
    assert isinstance(recipe.policy, Never)
    assert "computes everything" in told


def test_attributes_that_the_loaded_host_lacks_are_named():
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
def test_a_time_embedding_that_a_family_does_not_make_falls_back_and_the_report_says_so(family):
    network, _, _, _ = FAMILIES[family]
    run = Run(at(Site.STACK, Drift(0.1, Probe.EMBEDDING), name="TeaCache"), SCHEDULE)
    inside.check(run, network(), compiled=False)
    assert run.recipe.site is Site.COND
    assert "makes no time embedding that Encore could show: take a table of the model's own family." in run.ledger.notes[0]


def test_branches_of_a_compiled_network_are_left_alone():
    assert "compiled" in inside.unreachable(wan(), at(Site.BRANCH), compiled=True)
    assert inside.unreachable(wan(), at(Site.STACK), compiled=True) is None


def test_switches_that_a_network_has_no_branch_for_fall_back():
    found = inside.unreachable(flux(), at(Site.BRANCH, branches=frozenset({Branch.CROSS})))
    assert found == "Flux has none of cross-attention in a form that can be skipped alone."


@pytest.mark.parametrize("site", INSIDE, ids=lambda site: site.value)
def test_a_forward_replaced_by_another_node_is_noticed_in_the_first_call(site):
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


def test_arguments_of_another_name_or_kind_are_noticed_and_everything_in_that_call_computed():
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
