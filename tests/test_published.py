"""Every published method on real networks, through the host's own sampler."""

import pytest
import torch
from host_models import sample
from pack.cache_core import Site, published
from pack.cache_core.policies import Never
from pack.cache_core.predictors import Hold
from pack.nodes.adapters import host, reports
from recipes import published_methods

pytestmark = pytest.mark.host


@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize("recipe", published_methods(), ids=lambda recipe: recipe.name)
def test_a_method_samples_repeats_itself_and_accounts_for_every_evaluation(models, family, recipe):
    cached = host.attach(models[family], recipe)
    latent = sample(cached, family, cfg=3.0, steps=10)
    found = reports.find(latent)[0]
    assert torch.isfinite(latent).all()
    assert found.computed + found.reused == found.evaluations == 10
    assert all(entry.reason for entry in found.entries)
    assert torch.equal(latent, sample(cached, family, cfg=3.0, steps=10))


@pytest.mark.parametrize("recipe", published_methods(), ids=lambda recipe: recipe.name)
def test_a_method_that_never_reuses_is_bit_identical_to_no_node(models, recipe):
    from dataclasses import replace

    if recipe.predictor.keeps_probes:
        recipe = replace(recipe, predictor=Hold())
    idle = replace(recipe, policy=Never())
    assert torch.equal(sample(models["flux"], "flux", cfg=3.0), sample(host.attach(models["flux"], idle), "flux", cfg=3.0))


@pytest.mark.parametrize(
    ("recipe", "site", "head", "tail"),
    [
        (published.easycache(), Site.COND, 0, 0),
        (published.teacache(), Site.STACK, 0, 0),
        (published.magcache(), Site.STACK, 0, 0),
        (published.first_block_cache(), Site.STACK, 1, 0),
        (published.dbcache(front=3, back=1), Site.STACK, 3, 1),
        (published.dbcache_masked(front=2, back=1), Site.STACK, 2, 1),
        (published.encore(), Site.GUIDED, 0, 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_method_stands_where_its_authors_put_it(recipe, site, head, tail):
    assert (recipe.site, recipe.head, recipe.tail) == (site, head, tail)
