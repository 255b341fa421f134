"""The nodes that compose a method of one's own."""

import pytest
import torch
from host_models import make, sample
from pack.cache_core import Placement, Probe, Recipe, RecipeError, Site, Target
from pack.cache_core import policies as pol
from pack.cache_core import predictors as pre
from pack.cache_core import published as p
from pack.cache_core.tables import FLUX_CHANGE, FLUX_MAGNITUDE, WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND, WAN_14B_MAGNITUDE
from pack.nodes.adapters import host, reports
from pack.nodes.compose import COMPOSE
from pack.nodes.compose.guards import GUARDS
from pack.nodes.compose.policies import POLICIES, numbers
from pack.nodes.compose.predictors import PREDICTORS

pytestmark = pytest.mark.host
NODES = {node.define_schema().node_id.removeprefix("Encore"): node for node in COMPOSE}
FAMILIES = ("flux", "wan")


@pytest.fixture(scope="module")
def models():
    return {family: make(family) for family in FAMILIES}


def made(name, **given):
    """What a node gives out for these inputs, the others as they stand."""
    node = NODES[name]
    defaults = {i.id: i.default for i in node.define_schema().inputs if hasattr(i, "default") and i.id not in given}
    sockets = {"policy": pol.Interval(3), "predictor": pre.Hold(), "low": pre.Hold(), "high": pre.Hermite(2)}
    sockets = {i.id: sockets[i.id] for i in node.define_schema().inputs if i.id in sockets and not hasattr(i, "default")}
    return (
        node.PREPARE_CLASS_CLONE(None).execute(**{**sockets, **{k: v for k, v in defaults.items() if k not in sockets}, **given}).result[0]
    )


@pytest.mark.parametrize(
    ("name", "given", "part"),
    [
        ("PolicyMask", {"steps": "0, 3-5,9", "total": 12}, pol.Mask(frozenset({0, 3, 4, 5, 9}), 12)),
        ("PolicyInterval", {}, pol.Interval(3)),
        ("PolicyInterval", {"every": 2, "growth": 0.75}, pol.Growing(2, 0.75)),
        ("PolicyChange", {}, pol.Change(0.1, Probe.FIRST_BLOCK)),
        ("PolicyChange", {"threshold": 0.2, "probe": "latent"}, pol.Change(0.2, Probe.LATENT)),
        ("PolicyDrift", {}, pol.Drift(0.2, Probe.MODULATED, signed=False)),
        ("PolicyDrift", {"probe": "tokens", "signed": True}, pol.Drift(0.2, Probe.FIRST_BLOCK, of="input")),
        ("PolicyDrift", {"probe": "embedding"}, pol.Drift(0.2, Probe.EMBEDDING, signed=False)),
        ("PolicyDrift", {"polynomial": "flux"}, pol.Drift(0.2, polynomial=FLUX_CHANGE.coefficients, signed=False)),
        ("PolicyMagnitude", {}, pol.Magnitude(0.12, (FLUX_MAGNITUDE,))),
        ("PolicyMagnitude", {"curve": "wan2.1_t2v_1.3B"}, pol.Magnitude(0.12, (WAN_1B_MAGNITUDE, WAN_1B_MAGNITUDE_UNCOND))),
        ("PolicyOutputRate", {"threshold": 0.3}, pol.OutputRate(0.3)),
        ("PolicyEmbedded", {}, pol.Embedded(0.05, 2)),
        ("PolicyAccumulatedError", {}, pol.AccumulatedError(0.05, 2.0)),
        ("GuardWarmup", {"evaluations": 4}, pol.Warmup(pol.Interval(3), 4)),
        ("GuardTail", {}, pol.Tail(pol.Interval(3), 1)),
        ("GuardRetained", {}, pol.Retained(pol.Interval(3), 0.2, 0.5)),
        ("GuardWithin", {"start": 0.1, "end": 0.9, "high": 0.8, "low": 0.2}, pol.Within(pol.Interval(3), 0.1, 0.9, 0.2, 0.8)),
        ("GuardAtMost", {}, pol.AtMost(pol.Interval(3), 3)),
        ("GuardBudget", {}, pol.Budget(pol.Interval(3), 12)),
        ("PredictorHold", {}, pre.Hold()),
        ("PredictorLagrange", {}, pre.Lagrange(1)),
        ("PredictorTaylor", {}, pre.Taylor(2, pre.Axis.STEP)),
        ("PredictorHermite", {"scale": 0.71}, pre.Hermite(2, 0.71)),
        ("PredictorChebyshev", {"blend": 1.0, "relative": True}, pre.Chebyshev(4, 0.1, 1.0, 100, True)),
        ("PredictorAdamsBashforth", {}, pre.AdamsBashforth(2)),
        ("PredictorTwoAnchor", {"most": 2.0}, pre.TwoAnchor((1.0, 2.0))),
        ("PredictorFrequencySplit", {}, pre.FrequencySplit(pre.Hold(), pre.Hermite(2), 0.1)),
        ("PredictorGuidanceBands", {"high": 1.2}, pre.GuidanceBands(1.1, 1.2)),
        ("PredictorScaled", {"curve": "wan2.1_t2v_14B", "scale": False}, pre.Scaled(WAN_14B_MAGNITUDE, scale=False)),
        ("PredictorDamped", {"predictor": pre.Lagrange(1)}, pre.Damped(pre.Lagrange(1), 0.7)),
        ("PredictorCorrected", {"predictor": pre.Lagrange(1), "gain": -0.5}, pre.Corrected(pre.Lagrange(1), -0.5)),
    ],
)
def test_a_node_builds_the_part_it_is_named_after(name, given, part):
    assert made(name, **given) == part


def test_every_part_has_a_node():
    policies, predictors = {type(made(name)).__name__ for name in NODES if "Policy" in name}, {n.removeprefix("Predictor") for n in NODES}
    assert policies == {"Mask", "Interval", "Change", "Drift", "Magnitude", "OutputRate", "Embedded", "AccumulatedError"}
    named = {"Hold", "Lagrange", "Taylor", "Hermite", "Chebyshev", "AdamsBashforth", "TwoAnchor", "FrequencySplit", "Damped", "Corrected"}
    named |= {"GuidanceBands", "Scaled"}
    assert named == {name for name in predictors if hasattr(pre, name)}
    assert len(NODES) == len(POLICIES) + len(GUARDS) + len(PREDICTORS) + 2


@pytest.mark.parametrize("name", NODES)
def test_every_input_says_what_it_does(name):
    schema = NODES[name].define_schema()
    schema.validate()
    assert schema.category == "encore/compose"
    for given in schema.inputs:
        assert len(given.tooltip) > 20
        assert not hasattr(given, "min") or given.min <= given.default <= given.max


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", [Site.GUIDED, Site.COND, Site.STACK])
def test_a_composed_recipe_samples_as_the_same_recipe_in_code(models, family, site):
    policy = made("GuardTail", policy=made("GuardWarmup", policy=made("PolicyInterval", every=2), evaluations=2), steps=1)
    recipe = made("Recipe", policy=policy, predictor=made("PredictorLagrange"), site=site.value, target="residual")
    patched = made("ApplyRecipe", model=models[family], recipe=recipe)
    by_hand = Recipe(pol.Tail(pol.Warmup(pol.Interval(2), 2), 1), pre.Lagrange(1), site, Target.RESIDUAL)
    expected = sample(host.attach(models[family], by_hand), family, cfg=3.0)
    assert torch.equal(sample(patched, family, cfg=3.0), expected)
    assert "".join("rC"[entry.computed] for entry in reports.find(expected)[0].entries) == "CCrCrCrC"


def test_a_published_method_can_be_composed():
    drift = made("PolicyDrift", polynomial="flux", threshold=0.4, signed=True)
    policy = made("GuardTail", policy=made("GuardWarmup", policy=drift, evaluations=1), steps=1)
    recipe = made("Recipe", policy=policy, predictor=made("PredictorHold"), site="stack", target="residual")
    tea = p.teacache()
    assert (recipe.policy, recipe.predictor, recipe.site, recipe.target) == (tea.policy, tea.predictor, tea.site, tea.target)


def test_parts_that_are_for_one_place_are_taken_there():
    velocities = made("Recipe", predictor=pre.AdamsBashforth(), site="cond")
    blocks = made("Recipe", policy=made("PolicyMagnitude"), predictor=made("PredictorScaled"), site="stack", target="residual")
    assert (velocities.site, blocks.site) == (Site.COND, Site.STACK)


def test_all_sites_and_targets_are_offered():
    options = {given.id: given.options for given in NODES["Recipe"].define_schema().inputs if hasattr(given, "options")}
    assert options["site"] == [site.value for site in Site]
    assert options["target"] == [target.value for target in Target]


def test_blocks_device_and_branches_reach_the_recipe():
    recipe = made("Recipe", site="branch", head=1, tail=2, cache_device="cpu", cross_attention=False)
    assert (recipe.head, recipe.tail, recipe.placement) == (1, 2, Placement(torch.device("cpu")))
    assert {branch.value for branch in recipe.branches} == {"attention", "mlp"}
    assert made("Recipe").placement == Placement()


class TestRefusals:
    @pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.node_id)
    def test_budget_has_to_be_the_last_guard(self, guard):
        with pytest.raises(RecipeError, match=rf"Connect {guard.title} before the budget"):
            made(guard.node_id.removeprefix("Encore"), policy=made("GuardBudget"))

    @pytest.mark.parametrize("text", ["", "0-3; 5", "0, x", "-1", "3-"])
    def test_a_mask_that_cannot_be_read(self, text):
        with pytest.raises(RecipeError, match="0-3, 6, 9; found"):
            numbers(text)

    @pytest.mark.parametrize(
        ("given", "fix"),
        [
            ({"policy": pol.Change(0.1)}, "Use the site stack"),
            ({"policy": pol.Change(0.1), "site": "stack"}, "Use head 1 or more"),
            ({"predictor": pre.TwoAnchor(), "site": "stack"}, "Use a policy whose probe"),
            ({"predictor": pre.GuidanceBands()}, "Use the site uncond"),
            ({"predictor": pre.GuidanceBands(), "site": "uncond"}, "and the target residual"),
            ({"head": 1}, "Set both to 0 or use the site stack"),
            ({"predictor": pre.AdamsBashforth(), "site": "stack"}, "adds up velocities.*Use the site guided or cond and the target output"),
            ({"predictor": pre.Damped(pre.AdamsBashforth(), 0.5), "target": "residual"}, "Use the site guided or cond"),
            ({"predictor": pre.FrequencySplit(pre.Hold(), pre.Scaled(FLUX_MAGNITUDE))}, "Use the site stack and the target residual"),
            ({"predictor": pre.Scaled(FLUX_MAGNITUDE), "site": "stack"}, "Use the site stack and the target residual"),
            ({"policy": pol.AtMost(pol.Magnitude(0.1, (FLUX_MAGNITUDE,)), 2)}, "residual of all blocks.*Use the site stack"),
        ],
    )
    def test_a_combination_that_makes_no_sense_names_the_fix(self, given, fix):
        with pytest.raises(RecipeError, match=fix):
            made("Recipe", **given)

    def test_a_mask_without_its_first_step(self):
        with pytest.raises(RecipeError, match="needs step 0"):
            made("PolicyMask", steps="1-4")

    def test_damped_goes_around_a_weighted_sum(self):
        with pytest.raises(RecipeError, match="put it inside"):
            made("PredictorDamped", predictor=pre.TwoAnchor())

    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_recipe_that_leaves_no_block_is_refused_when_it_is_applied(self, models, family):
        with pytest.raises(RecipeError, match="Make them smaller"):
            made("ApplyRecipe", model=models[family], recipe=made("Recipe", site="stack", head=2, tail=1))
