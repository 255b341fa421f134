"""Gradient checkpointing through the host's networks: each block is computed again as itself, and the gradients are the plain ones."""

import gc

import comfy.model_management
import folder_paths
import host_models
import pytest
import torch
from blockcache_runs import Bar, measured, sampling
from pack.cache_core.blockcache import Training, for_reduction
from pack.nodes.adapters.blockcache import student
from pack.nodes.adapters.lessons import Lesson
from pack.nodes.skip import files
from safetensors.torch import load_file
from skip_runs import train

pytestmark = pytest.mark.host


@pytest.fixture(params=["flux", "wan"])
def deep(request, monkeypatch):
    """A model with several blocks of each kind between what is trained and the end."""
    monkeypatch.setitem(host_models.FLUX, "depth", 2)
    monkeypatch.setitem(host_models.FLUX, "depth_single_blocks", 3)
    monkeypatch.setitem(host_models.WAN, "num_layers", 5)
    return request.param, host_models.make(request.param)


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "OWN", tmp_path / "skip")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    return tmp_path


@pytest.mark.parametrize("rank", [0, 2])
def test_branches_and_loras_learn_the_same(deep, own_folder, rank):
    family, model = deep
    for checkpointing in (True, False):
        train(model, family, f"checkpointed {checkpointing}", steps=2, rank=rank, checkpointing=checkpointing)
    folders = [files.find("branches", "checkpointed True").parent, *([own_folder / "loras"] if rank else [])]
    for folder in folders:
        one, other = (load_file(folder / f"checkpointed {checkpointing}.safetensors") for checkpointing in (True, False))
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[key], other[key], atol=1e-6) for key in one)


def test_an_alignment_learns_the_same(deep):
    family, model = deep
    plan = for_reduction(measured(model, family), 1.4)
    assert min(plan.cached) < 4, "there is a block behind it that is computed"
    layers = []
    for checkpointed in (True, False):
        pupil = Training(plan.cached)
        with torch.inference_mode():
            sampling(model, family).run(student(model, plan, Lesson(pupil, plan.cached, checkpointed)), 1, 0, Bar())
            pupil.finish(1.0)
        layers.append(pupil.layers)
    torch.testing.assert_close(*layers, rtol=1e-3, atol=1e-6)


def test_nothing_is_left_of_a_training(deep):
    family, model = deep
    train(model, family, steps=1, rank=2)
    assert not any("forward" in vars(module) for module in model.model.diffusion_model.modules())
    gc.collect()
    assert not any(loaded.is_dead() for loaded in comfy.model_management.current_loaded_models), "nobody holds the branches any more"
