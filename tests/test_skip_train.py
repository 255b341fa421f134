"""The nodes of Skip-DiT: labels, files, the fit, and the two stages of the training on real networks."""

from itertools import pairwise

import folder_paths
import pytest
import torch
from host_models import BLOCKS, LATENT, make, prompt, sample
from pack.cache_core import CacheError
from pack.cache_core.skip.landscape import Landscape, surveying
from pack.cache_core.skip.lora import loras
from pack.nodes.adapters import host, reports
from pack.nodes.skip import files
from pack.nodes.skip.branches import EncoreSkipBranches, EncoreSkipFit
from pack.nodes.skip.cache import EncoreSkipCache
from pack.nodes.skip.model import EncoreClassLabel, EncoreClipFrames, numbers
from safetensors.torch import load_file
from skip_runs import train

pytestmark = pytest.mark.host
SAMPLING = {"seed": 0, "steps": 8, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}


@pytest.fixture(scope="module")
def models():
    return {family: make(family) for family in BLOCKS}


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "OWN", tmp_path / "skip")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    return tmp_path


def node(kind, *args, **kwargs):
    return kind.execute(*args, **kwargs).args[0]


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_the_first_stage_trains_the_branches_alone_and_the_file_brings_them_back(models, family):
    model = models[family]
    before = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    bare = sample(model, family)
    trained, loss, landscape, summary = train(model, family)
    assert "6 steps" in summary
    assert loss.shape[-1] == landscape.shape[-1] == 3
    assert not torch.equal(bare, sample(trained, family))
    assert torch.equal(sample(trained, family), sample(node(EncoreSkipBranches, model, "mine"), family))
    assert torch.equal(bare, sample(model, family))
    assert all(torch.equal(before[key], value) for key, value in model.model.diffusion_model.state_dict().items())


def test_a_training_lowers_its_loss_and_goes_on_where_it_stopped_as_if_it_had_not(models):
    def branches():
        return load_file(files.find("branches", "mine"))

    train(models["wan"], "wan", steps=3)
    train(models["wan"], "wan", steps=6)
    resumed = branches()
    files.find("branches", "mine").with_suffix(".training").unlink()
    train(models["wan"], "wan", steps=6)
    assert all(torch.equal(resumed[key], value) for key, value in branches().items())
    with pytest.raises(CacheError, match="training of something else"):
        train(models["wan"], "wan", steps=8, rank=4)


def test_checkpointing_and_the_batch_of_captions_change_no_gradient(models):
    rows = [torch.cat([prompt(5, 20 + n)[0][0] for n in range(4)])]
    pooled = torch.cat([prompt(5, 20 + n)[0][1]["pooled_output"] for n in range(4)])
    one = [[rows[0], {"pooled_output": pooled, "guidance": 3.5}]]
    found = []
    for name, changed in {"a": {}, "b": {"checkpointing": False}, "c": {"positive": one}}.items():
        train(models["flux"], "flux", name, steps=2, **changed)
        found.append(load_file(files.find("branches", name)))
    for other in found[1:]:
        assert all(torch.allclose(found[0][key], value, atol=1e-6) for key, value in other.items())


def test_the_second_stage_also_trains_a_lora_that_the_host_loads(models, own_folder):
    import comfy.sd

    trained = train(models["flux"], "flux", rank=4, bfloat16=True)[0]
    weights = load_file(own_folder / "loras" / "mine.safetensors")
    assert "diffusion_model.single_blocks.0.linear1.lora_up.weight" in weights
    assert any(bool(value.any()) for key, value in weights.items() if "lora_up" in key)
    both, _ = comfy.sd.load_lora_for_models(trained, None, weights, 1.0, 0.0)
    assert len(both.patches) == sum(key.endswith("alpha") for key in weights)
    assert not torch.equal(sample(both, "flux"), sample(trained, "flux"))


def test_nothing_stays_loaded_with_the_lora_in_its_weights(models):
    import comfy.model_management

    train(models["flux"], "flux", steps=1, rank=2)
    assert not comfy.model_management.current_loaded_models


def test_a_loras_first_weights_follow_the_seed_alone():
    network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.Linear(4, 6)])})
    one, again, other = (loras(network, ["blocks"], 2, seed)["blocks.0"].down.weight for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_wrong_material_is_refused_in_words(models):
    with pytest.raises(CacheError, match="4 latents and 3 conditions"):
        train(models["flux"], "flux", positive=[prompt(5, n)[0] for n in range(3)])
    with pytest.raises(CacheError, match="batch of 9"):
        train(models["flux"], "flux", batch=9)


def test_the_fit_node_writes_a_branch_that_the_cache_node_mends_with(models):
    given = {"positive": prompt(5, 11), "negative": prompt(5, 12), "latent_image": {"samples": torch.zeros(1, *LATENT["wan"])}}
    name, summary = EncoreSkipFit.execute(models["wan"], **given, n=2, blocks=1, samplings=2, name="fit", **SAMPLING).args
    assert name == "fit"
    assert "squared error" in summary
    EncoreSkipCache.hidden = type("Hidden", (), {"unique_id": None})
    widgets = {"n": 2, "blocks": 1, "start_percent": 0.0, "end_percent": 1.0}
    outputs = [sample(node(EncoreSkipCache, models["wan"], **widgets, forecast=kind), "wan") for kind in ("last", "line", "fit")]
    assert not torch.equal(outputs[0], outputs[2])
    assert all(reports.find(latent)[0].computed == 4 for latent in outputs)
    with pytest.raises(CacheError, match="There is no nothing"):
        node(EncoreSkipCache, models["wan"], **widgets, forecast="nothing")


def test_the_landscape_is_the_relative_change_of_each_blocks_tokens(models):
    into, seen = Landscape(), []
    last = models["wan"].model.diffusion_model.blocks[2]
    hook = last.register_forward_hook(lambda module, args, out: seen.append(out.clone()))
    sample(host.attach(models["wan"], surveying(into)), "wan", steps=4)
    hook.remove()
    expected = [(new - old).norm() / new.norm() for old, new in pairwise(seen)]
    assert torch.allclose(into.map()[2], torch.stack(expected), atol=1e-6)


def test_labels_are_read_and_frames_are_taken_apart():
    assert numbers("3, 4 -1") == [3, 4, -1]
    for wrong in ("", "x", "1.5", "-2"):
        with pytest.raises(CacheError, match="whole numbers"):
            numbers(wrong)
    assert node(EncoreClassLabel, "7")[0][1]["encore_label"].tolist() == [7]
    clip = torch.arange(2 * 4 * 3).reshape(2, 4, 3, 1, 1)
    assert torch.equal(node(EncoreClipFrames, {"samples": clip})["samples"][4], clip[1, :, 1])
    with pytest.raises(CacheError, match="Leave it out"):
        EncoreClipFrames.execute({"samples": torch.zeros(1, 4, 2, 2)})
