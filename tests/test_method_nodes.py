"""The nodes of the published methods: each samples as it stands, with the widgets of the pack it comes from."""

import pytest
import torch
from host_models import FLUX, WAN, make, sample
from pack.cache_core import Placement, RecipeError, Schedule, tables
from pack.cache_core import published as p
from pack.cache_core.policies import Carried
from pack.nodes.adapters import reports
from pack.nodes.methods import METHODS
from pack.nodes.methods import tables as chooser
from pack.nodes.methods.base import placement

pytestmark = pytest.mark.host
NODES = {node.node_id: node for node in METHODS}
FAMILIES = ("flux", "wan")

# Names and defaults as in the packs: ComfyUI-TeaCache, ComfyUI-MagCache, ComfyUI's EasyCache, Comfy-WaveSpeed, cache-dit,
# ComfyUI-TaylorSeer, ComfyUI-Spectrum-Proper. A table is chosen by itself where those ask for it.
PUBLISHED = {
    "EncoreTeaCache": {"rel_l1_thresh": 0.4, "start_percent": 0.0, "end_percent": 1.0},
    "EncoreMagCache": {"magcache_thresh": 0.06, "retention_ratio": 0.2, "magcache_K": 2, "start_step": 0, "end_step": -1},
    "EncoreEasyCache": {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95},
    "EncoreFirstBlockCache": {"start": 0.0, "end": 1.0, "max_consecutive_cache_hits": -1},
    "EncoreDBCache": {
        "Fn_compute_blocks": 8,
        "Bn_compute_blocks": 0,
        "residual_diff_threshold": 0.08,
        "max_warmup_steps": 8,
        "max_continuous_cached_steps": -1,
    },
    "EncoreTaylorSeer": {"fresh_threshold": 6, "max_order": 2, "first_enhance": 3, "last_enhance": 50},
    "EncoreSpectrum": {
        "blend_weight": 0.5,
        "degree": 4,
        "ridge_lambda": 0.1,
        "window_size": 2,
        "flex_window": 0.75,
        "warmup_steps": 5,
        "tail_actual_steps": 3,
        "max_history": 128,
    },
}


@pytest.fixture(scope="module")
def models():
    return {family: make(family) for family in FAMILIES}


def inputs(node):
    return {given.id: given for given in node.define_schema().inputs}


def defaults(node):
    return {name: given.default for name, given in inputs(node).items() if name != "model"}


def settings(node):
    """What `choose` is given."""
    return {name: value for name, value in defaults(node).items() if name != "cache_device"}


def run(node, model, family, steps=12, **widgets):
    """The latent of a node on a tiny model, and its ledger."""
    patched = node.PREPARE_CLASS_CLONE(None).execute(model, **defaults(node) | widgets).result[0]
    latent = sample(patched, family, cfg=3.0, steps=steps)
    return latent, reports.find(latent)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("node", METHODS, ids=NODES)
def test_a_node_samples_with_its_defaults_and_its_report_accounts_for_every_step(models, family, node):
    latent, ledger = run(node, models[family], family)
    assert torch.isfinite(latent).all()
    assert ledger.computed + ledger.reused == ledger.evaluations == 12
    assert ledger.source or "Ours" in node.summary


@pytest.mark.parametrize("node", METHODS, ids=NODES)
def test_every_widget_says_what_it_does_in_which_range(node):
    schema = node.define_schema()
    schema.validate()
    assert schema.category == "encore/methods"
    for name, given in inputs(node).items():
        assert len(given.tooltip) > 30
        numbers = (given.min, given.max) if hasattr(given, "min") else ()
        assert all(limit is not None for limit in numbers), f"{name} has no range"
        for widget, value in defaults(node).items():
            if widget == name and numbers:
                assert given.min <= value <= given.max


@pytest.mark.parametrize("node_id", PUBLISHED)
def test_names_and_defaults_are_those_of_the_original_packs(node_id):
    found = defaults(NODES[node_id])
    assert {name: found.get(name) for name in PUBLISHED[node_id]} == PUBLISHED[node_id]


def test_only_first_block_cache_leaves_the_default_of_its_pack_which_is_off():
    assert defaults(NODES["EncoreFirstBlockCache"])["residual_diff_threshold"] == 0.12


@pytest.mark.parametrize("node", METHODS, ids=NODES)
def test_methods_inside_the_network_say_what_they_keep_and_offer_the_cpu(models, node):
    given = settings(node)
    full = [{"lite": False}] if "lite" in given else []
    inside = any(node.choose(models["flux"], **given | other).recipe.site.inside for other in [{}, *full])
    assert bool(node.memory) == inside
    assert ("cache_device" in defaults(node)) == inside


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("node_id", "interval"),
    [("EncoreFORA", {"interval": 3}), ("EncoreTaylorSeer", {"fresh_threshold": 3}), ("EncoreHiCache", {"interval": 3})],
)
def test_without_lite_every_branch_is_kept_as_published(models, family, node_id, interval):
    (_, light), (_, full) = (run(NODES[node_id], models[family], family, lite=lite, **interval) for lite in (True, False))
    assert full.site == "branch"
    assert full.peak_bytes > light.peak_bytes
    assert full.source == light.source


class TestParts:
    def test_pab_takes_its_ranges(self, models):
        node = NODES["EncorePAB"]
        ranges = {"attention_range": 3, "cross_attention_range": 4, "mlp_range": 2}
        assert node.choose(models["wan"], **settings(node) | ranges).recipe == p.pab(3, 4, 2, 0.15, 0.85)
        assert node.choose(models["wan"], **settings(node)).recipe == p.pab()

    @pytest.mark.parametrize("family", FAMILIES)
    def test_delta_dit_counts_the_blocks_of_the_loaded_model(self, models, family):
        node = NODES["EncoreDeltaDiT"]
        assert node.choose(models[family], **settings(node)).recipe == p.delta_dit(3)
        assert node.choose(models[family], 4, 0.5, 0.3).recipe == p.delta_dit(3, 4, 0.5, 0.3)

    def test_fastercache_begins_at_its_noise_level(self, models):
        assert NODES["EncoreFasterCache"].choose(models["wan"], 3, 0.9).recipe == p.cfg_cache(3, 0.9)


class TestPlacement:
    def test_gpu_is_beside_the_model_and_cpu_is_the_cpu(self):
        assert placement("gpu", p.spectrum(), "wan") == Placement()
        assert placement("cpu", p.teacache(), "flux") == Placement(torch.device("cpu"))

    def test_auto_moves_away_only_what_takes_gigabytes(self):
        away = Placement(torch.device("cpu"))
        assert [placement("auto", recipe, "wan") for recipe in (p.teacache(), p.dicache(), p.spectrum())] == [
            Placement(),
            Placement(),
            away,
        ]
        assert placement("auto", p.spectrum(), "flux") == Placement()
        assert placement("auto", p.encore(), "wan") == Placement()


def resized(family, **config):
    """A tiny model that says it is of another size."""
    model = make(family)
    known = dict(FLUX if family == "flux" else WAN)
    model.model.model_config.unet_config = known | config
    return model


FLUX_DEV = {"hidden_size": 3072, "depth": 19, "depth_single_blocks": 38}
SIZES = {"1.3B": {"dim": 1536, "num_layers": 30}, "14B": {"dim": 5120, "num_layers": 40}}
I2V = {"in_dim": 36}


class TestTables:
    @pytest.mark.parametrize(
        ("family", "config", "curve"),
        [
            ("flux", FLUX_DEV, tables.FLUX_MAGNITUDE),
            ("wan", SIZES["1.3B"], tables.WAN_1B_MAGNITUDE),
            ("wan", SIZES["14B"], tables.WAN_14B_MAGNITUDE),
            ("wan", SIZES["14B"] | I2V, tables.WAN_I2V_480_MAGNITUDE),
        ],
    )
    def test_auto_takes_the_table_of_the_loaded_model_and_says_nothing(self, family, config, curve):
        model = resized(family, **config)
        found, own, notes = chooser.pick(model, chooser.CURVES, {name: curves[0].model for name, curves in chooser.CURVES.items()})
        assert (found[0], own, notes) == (curve, True, ())

    @pytest.mark.parametrize(
        ("family", "config", "model"),
        [
            ("flux", {}, "FLUX.1-dev"),
            ("wan", {}, "Wan2.1-T2V-1.3B"),
            ("wan", {"dim": 3072, "num_layers": 30, "in_dim": 48}, "Wan2.1-T2V-14B"),
            ("wan", SIZES["1.3B"] | I2V, "Wan2.1-I2V-14B-480P"),
        ],
    )
    def test_a_model_without_a_table_gets_the_nearest_and_the_report_says_so(self, family, config, model):
        choice = NODES["EncoreTeaCache"].choose(resized(family, **config), 0.05, "auto", 0.0, 1.0)
        assert choice.notes[0].endswith(f"those of {model} stand in, which were not fitted on it.")

    def test_a_family_without_numbers_takes_those_of_flux(self, models):
        class Other:
            model_config = models["flux"].model.model_config

        other = type("Patcher", (), {"model": Other()})
        found, own, notes = chooser.pick(other, chooser.POLYNOMIALS, {name: found.model for name, found in chooser.POLYNOMIALS.items()})
        assert found is tables.FLUX_CHANGE
        assert not own
        assert "FLUX.1-dev" in notes[0]

    def test_a_table_by_name_is_taken_without_a_note(self, models):
        choice = NODES["EncoreMagCache"].choose(
            models["flux"], model_type="wan2.1_t2v_14B", magcache_thresh=0.1, retention_ratio=0.1, magcache_K=2, start_step=0, end_step=-1
        )
        assert choice.recipe.policy.inner.inner.inner.curves == (tables.WAN_14B_MAGNITUDE, tables.WAN_14B_MAGNITUDE_UNCOND)
        assert choice.notes == ()

    def test_a_polynomial_is_summed_as_published_only_on_the_model_it_was_fitted_on(self, models):
        drifts = [
            NODES["EncoreTeaCache"].choose(model, 0.05, name, 0.0, 1.0).recipe.policy.inner.inner.inner
            for model, name in [(resized("flux", **FLUX_DEV), "auto"), (resized("flux", **FLUX_DEV), "flux"), (models["flux"], "flux")]
        ]
        assert [drift.signed for drift in drifts] == [True, True, False]

    def test_the_note_reaches_the_report(self, models):
        _, ledger = run(NODES["EncoreTeaCache"], models["wan"], "wan")
        assert any("128 wide, 3 blocks" in note for note in ledger.notes)
        assert any("rel_l1_thresh 0.4 is above 0.1" in note for note in ledger.notes)

    def test_dicache_takes_the_numbers_of_the_family(self, models):
        flux, wan = (NODES["EncoreDiCache"].choose(models[family], -1.0, 0.2, 1).recipe for family in FAMILIES)
        assert (flux.policy.inner.inner.threshold, flux.predictor.clip) == (0.4, (1.0, 1.5))
        assert (wan.policy.inner.inner.threshold, wan.predictor.clip) == (0.08, (1.0, 2.0))
        assert NODES["EncoreDiCache"].choose(models["wan"], 0.2, 0.2, 1).recipe.policy.inner.inner.threshold == 0.2


class TestMasks:
    @pytest.mark.parametrize(("node_id", "masks"), [("EncoreLeMiCa", chooser.LEMICA), ("EncoreGoldenPath", chooser.GOLDEN)])
    def test_every_published_mask_can_be_chosen_and_is_kept_as_published(self, models, node_id, masks):
        offered = inputs(NODES[node_id])["mask"].options
        assert offered == ["auto", *chooser.mask_names(masks)]
        assert len(offered) == 1 + sum(map(len, masks.values()))
        for name, mask in chooser.mask_names(masks).items():
            recipe = NODES[node_id].choose(models["wan"], **settings(NODES[node_id]) | {"mask": name}).recipe
            whole = Schedule(tuple(1.0 - n / mask.total for n in range(mask.total + 1)))
            assert recipe.policy == Carried(mask)
            assert recipe.policy.computed(whole) == frozenset(mask.computed)

    def test_auto_goes_by_model_and_speed(self):
        model = resized("wan", **SIZES["14B"])
        assert NODES["EncoreLeMiCa"].choose(model, "auto", 3.0).recipe.policy.masks == tables.WAN_14B_LEMICA
        choice = NODES["EncoreGoldenPath"].choose(model, "auto", 3.0, 1)
        assert choice.recipe.policy.masks == tables.WAN_GOLDEN
        assert "Wan2.1-T2V-1.3B stand in" in choice.notes[0]

    def test_a_step_mask_of_cache_dit_runs_the_first_blocks_at_its_cached_steps(self, models):
        _, ledger = run(NODES["EncoreDBCache"], models["wan"], "wan", steps=28, steps_mask="fast")
        assert "".join("01"[entry.computed] for entry in ledger.entries) == "1111110100010000100000100001"
        assert len({entry.macs for entry in ledger.entries if not entry.computed}) == 1
        assert all(entry.macs > 0 for entry in ledger.entries)


class TestDBCache:
    def test_a_model_of_few_blocks_takes_the_same_share_and_the_report_says_so(self, models):
        _, ledger = run(NODES["EncoreDBCache"], models["flux"], "flux", max_warmup_steps=2)
        assert "The model has 3 blocks, so 1 at the front and 0 at the back always run, not 8 and 0." in ledger.notes

    def test_blocks_that_fit_are_taken_as_they_are(self, models):
        _, ledger = run(NODES["EncoreDBCache"], models["flux"], "flux", Fn_compute_blocks=1, Bn_compute_blocks=1)
        assert not any("blocks" in note for note in ledger.notes)

    def test_blocks_that_leave_none_are_refused(self, models):
        with pytest.raises(RecipeError, match="make them smaller"):
            run(NODES["EncoreDBCache"], models["flux"], "flux", Fn_compute_blocks=50, Bn_compute_blocks=50)


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_and_limits_of_the_widgets_are_kept(models, family):
    def reused(node_id, **widgets):
        return {entry.step for entry in run(NODES[node_id], models[family], family, steps=20, **widgets)[1].entries if not entry.computed}

    mag = {"magcache_thresh": 0.3, "magcache_K": 6, "retention_ratio": 0.0, "model_type": "flux"}
    assert reused("EncoreMagCache", **mag)
    assert reused("EncoreMagCache", **mag, start_step=8, end_step=-3) <= set(range(8, 18))
    middle = {10, 11, 12, 13, 14, 15}
    assert reused("EncoreEasyCache", reuse_threshold=3.0, start_percent=0.5, end_percent=0.8) <= middle
    assert {10, 15} <= reused("EncoreFirstBlockCache", residual_diff_threshold=1.0, start=0.5, end=0.8) <= middle
    tea = reused("EncoreTeaCache", rel_l1_thresh=10.0, start_percent=0.5, end_percent=0.8)
    assert tea == (middle if family == "flux" else set()), "Wan's polynomial is steep"
    assert reused("EncoreFirstBlockCache", residual_diff_threshold=1.0, max_consecutive_cache_hits=1) == set(range(1, 20, 2))
    assert reused("EncoreTaylorSeer", fresh_threshold=3, last_enhance=9) == {3, 4, 6, 7}
    assert reused("EncoreSpectrum", warmup_steps=3, tail_actual_steps=2) == {3, 5, 7, 8, 10, 11, 12, 14, 15, 16, 17}
