"""What a recipe keeps is foretold to the byte."""

from dataclasses import replace

import pytest
import torch
from host_models import LATENT, sample
from pack.cache_core import Branch, Placement, Probe, Recipe, Site, Span, Target
from pack.cache_core.memory import Extent, kept_bytes
from pack.cache_core.policies import Change, Drift, Embedded, Mask, OutputRate, Warmup, Within
from pack.cache_core.predictors import Hold, Lagrange, Taylor, TwoAnchor
from pack.nodes.adapters import host, reports
from pack.nodes.adapters.extent import extent_of
from pack.nodes.methods import METHODS

pytestmark = pytest.mark.host
MASK = Mask(frozenset({0, 1, 2, 5}), 8)
ATTENTION = frozenset({Branch.ATTENTION})
RECIPES = {
    "guided": Recipe(MASK, Lagrange(1)),
    "cond": Recipe(MASK, Lagrange(2), Site.COND),
    "uncond": Recipe(MASK, Hold(), Site.UNCOND, Target.RESIDUAL),
    "stack": Recipe(MASK, Taylor(2), Site.STACK),
    "stack with probes": Recipe(Change(0.0), TwoAnchor(), Site.STACK, Target.RESIDUAL, head=1),
    "first block": Recipe(Change(0.0), Hold(), Site.STACK, head=1, tail=1),
    "modulated input": Recipe(Within(Drift(0.0)), Hold(), Site.STACK),
    "input": Recipe(Drift(0.0, Probe.FIRST_BLOCK, of="input"), Hold(), Site.BLOCK, head=1),
    "latent at the stack": Recipe(Change(0.0, Probe.LATENT), Hold(), Site.STACK),
    "rate": Recipe(OutputRate(1e9), Hold(), Site.COND, Target.RESIDUAL),
    "late": Recipe(Warmup(OutputRate(1e9), 7), Hold(), Site.COND, Target.RESIDUAL),
    "pair": Recipe(Embedded(0.0, 2), Lagrange(1)),
    "two spans": Recipe(MASK, Lagrange(1), Site.STACK, spans=(Span(0, 1), Span(-1))),
    "block": Recipe(MASK, Lagrange(1), Site.BLOCK, Target.RESIDUAL, head=1),
    "branch": Recipe(MASK, Lagrange(1), Site.BRANCH),
    "attention": Recipe(MASK, Hold(), Site.BRANCH, branches=ATTENTION),
}


@pytest.mark.parametrize(
    "placement", [Placement(), Placement(torch.device("cpu")), Placement(dtype=torch.bfloat16)], ids=["as is", "cpu", "half"]
)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_bytes_kept_at_most_are_those_foretold(models, name, family, cfg, placement):
    if name == "uncond" and cfg == 1.0:
        return
    recipe = replace(RECIPES[name], placement=placement)
    found = reports.find(sample(host.attach(models[family], recipe), family, cfg=cfg, batch=2))[0]
    extent = extent_of(models[family], recipe, (2, *LATENT[family]), 5, 1 if cfg == 1.0 else 2)
    assert extent is not None
    assert found.peak_bytes == kept_bytes(recipe, extent)


# What the tooltip of each node says: how many results of all tokens, and how many of the picture's tokens alone.
TOOLTIPS = {
    "EncoreTeaCache": ({}, (1, 1)),
    "EncoreMagCache": ({}, (1, 0)),
    "EncoreFirstBlockCache": ({}, (1, 1)),
    "EncoreDBCache": ({}, (1, 1)),
    "EncoreDiCache": ({"ret_ratio": 0.0, "rel_l1_thresh": 0.0}, (2, 3)),
    "EncoreTaylorSeer": ({"fresh_threshold": 2}, (3, 0)),
    "EncoreHiCache": ({"interval": 2, "max_order": 1}, (2, 0)),
    "EncoreFreqCa": ({"interval": 2}, (3, 0)),
    "EncoreSpectrum": ({"max_history": 4}, (4, 0)),
    "EncoreLeMiCa": ({}, (1, 0)),
    "EncoreDeltaDiT": ({}, (3, 0)),
}
NODES = {node.node_id: node for node in METHODS if node.memory}
EACH_BRANCH = {"EncoreFORA", "EncorePAB"}  # as many results as there are branches, and those are counted above


@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize("node_id", TOOLTIPS)
def test_the_bytes_kept_are_those_of_the_tooltip(models, node_id, family):
    assert set(TOOLTIPS) | EACH_BRANCH == set(NODES)
    node, (given, (results, probes)) = NODES[node_id], TOOLTIPS[node_id]
    settings = {i.id: i.default for i in node.define_schema().inputs if hasattr(i, "default")} | {"cache_device": "gpu"} | given
    patched = node.PREPARE_CLASS_CLONE(None).execute(model=models[family], **settings).result[0]
    found = reports.find(sample(patched, family, cfg=3.0, steps=12))[0]
    picture, text = (16, 5) if family == "flux" else (48, 0)
    values = 128 * (results * (picture + text) + probes * picture)
    if (node_id, family) == ("EncoreTeaCache", "wan"):
        values = 128 * (picture + 6)  # its projected time embedding
    assert found.peak_bytes == 2 * values * 4


def test_published_sizes():
    """FLUX.1 at 1024 x 1024: 4096 tokens and 512 of text, 3072 wide. Wan 14B, 81 frames of 720p: 21 x 45 x 80 tokens, 5120 wide, CFG."""
    flux = Extent(16 * 128 * 128, 4096 + 512, 3072, 57, features=[2] * 19 + [1] * 38)
    assert kept_bytes(Recipe(MASK, Hold(), Site.STACK), flux) == 4608 * 3072 * 2
    assert kept_bytes(Recipe(MASK, Hold(), Site.BRANCH), flux) == (19 * 2 + 38) * 4608 * 3072 * 2
    wan = Extent(16 * 21 * 90 * 160, 21 * 45 * 80, 5120, 40, conditions=2, features=[3] * 40)
    assert kept_bytes(Recipe(MASK, Hold(), Site.BRANCH), wan) == 2 * 120 * 75600 * 5120 * 2
    assert kept_bytes(Recipe(MASK, Hold()), wan) == 16 * 21 * 90 * 160 * 4
