"""What the report says of branches that were made for something else, and how the cache's two ends are set."""

import pytest
import torch
from host_models import BLOCKS, BlockCalls, make, newest, prompt, sample
from pack.cache_core import CacheError, Recipe, Site, Target
from pack.cache_core.policies import Interval
from pack.cache_core.predictors import Hold
from pack.cache_core.recipe import Span
from pack.cache_core.skip.branch import branches
from pack.cache_core.skip.cache import skip_cache
from pack.nodes.adapters import dit, host, skips
from pack.nodes.skip import files
from pack.nodes.skip.branches import EncoreSkipBranches, EncoreSkipFit
from pack.nodes.skip.cache import CURVES, EncoreSkipCache
from skip_models import SHAPE, file_like, randomised
from skip_runs import material, train

pytestmark = pytest.mark.host
SAMPLING = {"seed": 0, "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
WIDGETS = {"n": 2, "blocks": 1, "start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture(scope="module")
def models():
    """A small Wan, and another of its form with other weights."""
    other = make("wan")
    randomised(other.model.diffusion_model, 3)
    return {"mine": make("wan"), "other": other}


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "OWN", tmp_path)
    EncoreSkipCache.hidden = type("Hidden", (), {"unique_id": None})


def cached(model, forecast="last", **changed):
    return EncoreSkipCache.execute(model, **{**WIDGETS, "forecast": forecast, **changed}).args[0]


def notes(model, steps=8):
    return newest(sample(model, "wan", steps=steps)).notes


def test_the_report_says_where_branches_were_trained_on_another_model_and_not_where_a_lora_is_on_it(models):
    train(models["mine"], "wan", steps=1)
    patched = models["mine"].clone()
    key = "diffusion_model.blocks.0.ffn.0.weight"
    patched.add_patches({key: ("diff", (torch.zeros_like(patched.model.state_dict()[key]),))}, 1.0)
    for model in (models["mine"], patched):
        assert notes(cached(EncoreSkipBranches.execute(model, "mine").args[0])) == []
    (note,) = notes(cached(EncoreSkipBranches.execute(models["other"], "mine").args[0]))
    assert note == "The branches 'mine' were trained on another model: it differs in weights."
    assert notes(cached(EncoreSkipBranches.execute(models["other"], "untrained").args[0])) == []


def test_the_report_says_where_a_fitted_branch_was_made_for_something_else(models):
    given = {
        "positive": prompt(5, 11),
        "negative": prompt(5, 12),
        "latent_image": {"samples": torch.zeros_like(material("wan", 1)["samples"])},
    }
    EncoreSkipFit.execute(models["mine"], **given, n=3, blocks=1, samplings=1, name="fit", **SAMPLING)
    assert notes(cached(models["mine"], "fit")) == []
    assert notes(cached(models["mine"], "fit", n=3)) == []
    (model,) = notes(cached(models["other"], "fit"))
    assert model == "The branch 'fit' was fitted on another model: it differs in weights."
    (every,) = notes(cached(models["mine"], "fit", n=4))
    assert every == "The branch 'fit' was fitted for one whole step in up to 3, and n is 4."
    (steps,) = notes(cached(models["mine"], "fit"), steps=9)
    assert steps == "The branch 'fit' was fitted on samplings of 8 steps, and this one has 9."
    told = EncoreSkipCache.choose(models["mine"], **WIDGETS, forecast="fit", deep_blocks=2).notes
    assert told == ("The branch 'fit' was fitted for 1 blocks at each end, and 1 and 2 always run.",)


def test_a_branch_without_the_block_that_it_reads_is_left_out_and_the_report_says_so(models):
    made = randomised(branches(BLOCKS["wan"], 128, added=True))
    branched = skips.attach_branches(models["mine"], made)
    assert notes(host.attach(branched, skip_cache(2))) == []
    assert skips.UNREAD in notes(host.attach(branched, skip_cache(2, keep=0, deep=1)))
    first_held = Recipe(Interval(2), Hold(), Site.BLOCK, Target.RESIDUAL, spans=(Span(0, 1),))
    assert notes(host.attach(branched, first_held)) == [skips.UNREAD]
    assert notes(host.attach(models["mine"], first_held)) == []


def test_shallow_and_deep_blocks_that_stay_are_two_numbers(models):
    model = dit.build(file_like(SHAPE), {"prediction": "flow", "shift": "3.0", "heads": "2"})
    label = dit.condition([4])

    def runs(**changed):
        with BlockCalls(model) as calls:
            sample(cached(model, **changed), "dit", positive=label, shape=(4, 8, 8))
        return [calls.calls[f"blocks.{n}"] for n in range(6)]

    assert runs() == [8, 4, 4, 4, 4, 8]
    assert runs(deep_blocks=2) == [8, 4, 4, 4, 8, 8]
    assert runs(blocks=2, deep_blocks=1) == [8, 8, 4, 4, 4, 8]
    assert runs(blocks=2) == [8, 8, 4, 4, 8, 8]


def test_the_forecasts_are_the_curves_through_the_last_whole_steps(models):
    recipes = {name: EncoreSkipCache.choose(models["mine"], **WIDGETS, forecast=name).recipe for name in CURVES}
    assert {name: recipe.predictor.depth for name, recipe in recipes.items()} == {"last": 1, "line": 2, "parabola": 3}
    outputs = [sample(cached(models["mine"], name), "wan") for name in CURVES]
    assert not any(torch.equal(a, b) for a, b in zip(outputs, outputs[1:] + outputs[:1], strict=True))
    with pytest.raises(CacheError, match="There is no cubic"):
        cached(models["mine"], "cubic")
