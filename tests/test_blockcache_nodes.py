"""Block Caching's nodes and the analysis, run as the server runs them: in inference mode, from file to file."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from blockcache_runs import flat
from host_models import LATENT, prompt, sample
from pack.cache_core import CacheError, Place, Probe, Schedule, Step
from pack.cache_core import published as p
from pack.cache_core.blockcache import Training, for_reduction
from pack.cache_core.blockcache.align import load as load_alignment
from pack.cache_core.blockcache.analysis import Redundancy, correlation, explained, rings
from pack.cache_core.types import Observation
from pack.nodes import blockcache as nodes
from pack.nodes.adapters import reports
from pack.nodes.adapters.host import attach
from pack.nodes.blockcache import files, plots

pytestmark = pytest.mark.host
STEPS = 8
SAMPLING = {"seed": 1, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "OWN", tmp_path)
    for node in (nodes.EncoreBlockCache, nodes.EncoreBlockProfile):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None), raising=False)
    return tmp_path


def given(models, family, batch=1):
    latent = {"samples": torch.zeros(batch, *LATENT[family])}
    return {"model": models[family], "positive": prompt(5, 11), "negative": prompt(5, 12), "latent_image": latent, **SAMPLING}


def is_picture(image):
    return image.ndim == 4 and image.shape[-1] == 3 and 0 <= image.min() < image.max() <= 1


@torch.inference_mode()
def test_from_a_model_to_an_aligned_cache(models, family, folder):
    source = given(models, family)
    _, plot, summary = nodes.EncoreBlockProfile.execute(**source, trajectories=2, branches=True, device="cpu", name="tiny").result
    assert is_picture(plot)
    assert "4 uncached samplings of 8 steps" in summary
    assert (folder / "profiles" / "tiny.safetensors").exists()
    assert "tiny" in files.names("profiles")
    schedule, plot, both, summary = nodes.EncoreBlockSchedule.execute(
        file="tiny", macs_reduction=1.4, delta=0.0, front=1, back=0, name="plan"
    ).result
    assert is_picture(plot)
    assert is_picture(both)
    assert f"{schedule.reduction:.3f}x fewer MACs" in summary
    fitted, summary = nodes.EncoreBlockAlignFit.execute(schedule, **source, file="connected", rollouts=2, device="gpu", name="fit").result
    assert "fitted on 2 roll-outs" in summary
    trained, _, loss = nodes.EncoreBlockAlignTrain.execute(
        **source, file="plan", iterations=2, learning_rate=1e-3, checkpointing=True, device="gpu", name="train"
    ).result
    assert is_picture(loss)
    assert {fitted.kind, trained.kind} == {"fitted", "trained"}
    latents = []
    for alignment, file in ((None, "none"), (fitted, "none"), (None, "fit"), (trained, "none")):
        (model,) = nodes.EncoreBlockCache.execute(models[family], "connected", file, "auto", schedule, alignment).result
        latents.append(sample(model, family, steps=STEPS, cfg=3.0))
        assert reports.find(latents[-1])[0].notes == []
        assert reports.find(latents[-1])[0].macs == schedule.expected_macs
    assert torch.equal(latents[0], latents[1]) == (not fitted.rows.any())  # all of it is left out where it did harm
    assert torch.equal(latents[0], latents[3]) == (not trained.rows.any())
    torch.testing.assert_close(latents[1], latents[2], rtol=0.05, atol=0.05)  # a file's rows are in bfloat16


@torch.inference_mode()
def test_a_training_goes_on_and_a_stopped_one_is_kept(models, folder, monkeypatch):
    source = given(models, "wan")
    profile = nodes.EncoreBlockProfile.execute(**source, trajectories=1, branches=False, device="gpu", name="tiny").result[0]
    for_reduction(profile, 1.4).save(files.place_for("schedules", "plan"))
    settings = {"file": "plan", "learning_rate": 1e-3, "checkpointing": False, "device": "gpu", "name": "t"}
    nodes.EncoreBlockAlignTrain.execute(**source, iterations=1, **settings)
    finish = Training.finish

    def stopped(self, seconds):
        finish(self, seconds)
        if self.rollouts == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            nodes.EncoreBlockAlignTrain.execute(**source, iterations=3, **settings)
    assert load_alignment(folder / "alignments" / "t.safetensors").about["rollouts"] == 1
    nodes.EncoreBlockAlignTrain.execute(**source, iterations=3, **settings)
    assert load_alignment(folder / "alignments" / "t.safetensors").about["rollouts"] == 3
    other = models["wan"].clone()
    other.patches = {"blocks.0.ffn.0.weight": [(0.5, ("diff", (torch.zeros(2, 2),)), 1.0, None, None)]}
    with pytest.raises(CacheError, match=r"t\.training holds the training of another model: it differs in patches"):
        nodes.EncoreBlockAlignTrain.execute(**source | {"model": other}, iterations=4, **settings)


def test_what_does_not_fit_is_told(models):
    with pytest.raises(CacheError, match="No profile is connected"):
        nodes.EncoreBlockSchedule.execute(file="connected", macs_reduction=1.4, delta=0.0, front=0, back=0, name="")
    with pytest.raises(CacheError, match="There is no block schedule at none"):
        nodes.EncoreBlockCache.execute(models["flux"], "none", "none")
    with pytest.raises(CacheError, match="cannot be called"):
        nodes.EncoreBlockProfile.execute(**given(models, "flux"), trajectories=1, branches=False, device="gpu", name="../x")
    other = for_reduction(flat(3, 8), 1.2)
    (model,) = nodes.EncoreBlockCache.execute(models["flux"], "connected", "none", "auto", other).result
    assert reports.find(sample(model, "flux", steps=STEPS))[0].notes == []
    told = for_reduction(flat(3, 8), 1.2)
    told.about["network"] = "WanModel"
    (model,) = nodes.EncoreBlockCache.execute(models["flux"], "connected", "none", "auto", told).result
    assert "made on another model: it differs in network" in reports.find(sample(model, "flux", steps=STEPS))[0].notes[0]


class TestAnalysis:
    @torch.inference_mode()
    def test_the_node_tells_of_blocks_branches_conditions_and_probes(self, models, family):
        plot, text = nodes.EncoreAnalysis.execute(**given(models, family, batch=2), trajectories=2).result
        assert is_picture(plot)
        found = json.loads(text)
        kinds = {"attention", "attention + mlp"} if family == "flux" else {"attention", "cross-attention"}
        assert {name.split(maxsplit=2)[2] for name in found["places"] if name.count(" ") > 1} == kinds | {"mlp"}
        assert all(row["change"] > 0 and row["due_to_step"] <= 1 for row in found["places"].values())
        assert set(found["outputs"]) == {"latent", "prediction", "negative", "difference"}
        assert set(found["probes"]) == {"latent", "first block", "middle block", "modulated input"}
        assert len(found["bands"]) == 4
        assert found["tokens"]["least"] <= 1 <= found["tokens"]["most"]
        assert sum(found["tokens"]["frames"]) == pytest.approx(len(found["tokens"]["frames"]), rel=1e-3)

    def observed(self, residuals, grid, text):
        redundancy, picture = Redundancy(grid, text), torch.zeros(1, math.prod(grid), 2)
        redundancy.begin()
        schedule = Schedule(tuple(1 - n / len(residuals) for n in range(len(residuals) + 1)))
        for n, new in enumerate(residuals):
            seen = Observation(Step(schedule, schedule.sigmas[n], n), None, 0, n, picture, place=Place(0))
            redundancy.look(seen, new, residuals[n - 1] if n else None)
        return redundancy

    @pytest.mark.parametrize("text", ["before", "after"])
    def test_places_channels_and_bands_are_told_apart(self, text):
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        smooth, checks = torch.ones(64), ((rows + columns) % 2 * 2.0 - 1).flatten()
        words = torch.randn(1, 3, 2)

        def tokens(a, b, corner=0.0):
            picture = torch.stack([a * smooth, b * checks], -1)[None].clone()
            picture[0, 0] += corner
            return torch.cat([words, picture] if text == "before" else [picture, words], 1)

        found = self.observed([tokens(1, 1), tokens(2, 1), tokens(2, 1)], (1, 8, 8), text)
        assert found.channels()[0].tolist() == pytest.approx([2.0, 0.0])
        bands = found.bands(3)[0]
        assert bands[1].tolist() == pytest.approx([0.25, 0.0, 0.0, 0.0], abs=1e-6)
        assert bands[2].tolist() == [0.0] * 4
        place = self.observed([tokens(1, 1), tokens(1, 1, 5.0)], (1, 8, 8), text).tokens()
        assert place.shape == (1, 1, 8, 8)
        assert place[0, 0].argmax() == 0
        assert place[0, 0].flatten()[1:].abs().max() == 0

    def test_rings_cover_all_frequencies_from_low_to_high(self):
        found = rings(8, 8).reshape(8, 8)
        assert (found[0, 0], found[4, 4], found[0, 4]) == (0, 3, 3)
        assert set(found.flatten().tolist()) == {0, 1, 2, 3}

    def test_variance_and_correlation(self):
        curve = torch.tensor([1.0, 2.0, 4.0])
        assert explained(curve.repeat(3, 1)) == pytest.approx(1.0)
        assert explained(torch.tensor([[1.0, 1.0], [3.0, 3.0]])) == pytest.approx(0.0)
        assert correlation(curve, 2 * curve + 1) == pytest.approx(1.0)
        assert correlation(curve, -curve) == pytest.approx(-1.0)
        assert correlation(curve, torch.ones(3)) == 0.0

    def test_looking_on_changes_nothing(self, models, family):
        recipe = p.block_profile(ready(), shown=Probe.MODULATED)
        assert torch.equal(sample(models[family], family, cfg=3.0), sample(attach(models[family], recipe), family, cfg=3.0))


def ready():
    found = Redundancy((1, 4, 4))
    found.begin()
    return found


def test_plots_of_any_size():
    assert is_picture(plots.profile_plot(flat(60, 4, changes=torch.rand(60, 4))))
    assert is_picture(plots.loss_plot([1.0], "one"))
