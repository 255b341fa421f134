"""What a training of skip branches goes on from, what it refuses, and what it must not write over."""

import folder_paths
import pytest
import torch
from host_models import make, prompt
from pack.cache_core import CacheError
from pack.cache_core.skip.branch import branches
from pack.cache_core.skip.files import claim_lora
from pack.cache_core.skip.train import Training
from pack.nodes.adapters.skiptrain import Material, with_lora
from pack.nodes.skip import files
from pack.nodes.skip.train import survey, trained
from safetensors.torch import load_file, save_file
from skip_models import randomised
from skip_runs import material, train

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def models():
    """Two of one form and other weights, and one of another form."""
    other = make("wan")
    randomised(other.model.diffusion_model, 3)
    return {"wan": make("wan"), "other": other, "flux": make("flux")}


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "OWN", tmp_path / "skip")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / kind)])
    return tmp_path


class Elsewhere(torch.Tensor):
    """A tensor as if on another device: nothing can be done with it but to bring it over."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is not torch.Tensor.to:
            raise RuntimeError("Expected all tensors to be on the same device")
        with torch._C.DisableTorchFunctionSubclass():
            return args[0].to(*args[1:]).as_subclass(torch.Tensor)


def started(width=4, **given):
    made = randomised(branches(4, width, added=True))
    return Training({"branches": made}, **given)


def step(training):
    training.learn(sum(value.square().sum() for value in training.parts["branches"].parameters()))


def test_the_optimisers_state_follows_its_parameters_to_where_the_host_has_moved_them(tmp_path):
    whole, resumed = started(), started()
    for _ in range(2):
        step(whole)
    whole.save(tmp_path / "a.training")
    resumed.load(tmp_path / "a.training")
    for state in resumed.optimiser.state.values():
        state.update({key: value.as_subclass(Elsewhere) for key, value in state.items() if value.ndim})
    for training in (whole, resumed):
        step(training)
    pairs = zip(whole.parts["branches"].parameters(), resumed.parts["branches"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_training_of_other_shapes_or_of_another_model_is_refused_with_both_told(tmp_path):
    mine = started(about={"network": "Flux", "weights": "aa"})
    mine.save(tmp_path / "a.training")
    started(about={"network": "Flux", "weights": "aa"}).load(tmp_path / "a.training")
    with pytest.raises(CacheError, match=r"model's weights: found aa, expected bb.*another name, or delete a\.training"):
        started(about={"network": "Flux", "weights": "bb"}).load(tmp_path / "a.training")
    with pytest.raises(CacheError, match=r"shape of branches:0.linear.bias: found \[4\], expected \[6\]"):
        started(6, about=mine.about).load(tmp_path / "a.training")
    with pytest.raises(CacheError, match=r"found \[4\], expected none"):
        Training({"branches": branches(2, 4, added=True)}, about=mine.about).load(tmp_path / "a.training")


@pytest.mark.parametrize("steps", [2, 4])
def test_a_second_model_does_not_go_on_from_the_first_ones_training(models, steps):
    train(models["wan"], "wan", steps=2)
    path = files.find("branches", "mine")
    before = path.read_bytes()
    with pytest.raises(CacheError, match=r"the model's weights: .*delete mine\.training"):
        train(models["other"], "wan", steps=steps)
    with pytest.raises(CacheError, match="the model's family: found wan, expected flux"):
        train(models["flux"], "flux", steps=steps)
    assert path.read_bytes() == before


def test_a_lora_of_somebody_elses_is_not_written_over_and_ones_own_is(models, own_folder):
    file = own_folder / "loras" / "mine.safetensors"
    train(models["wan"], "wan", steps=1, rank=2)
    first = load_file(file)
    train(models["wan"], "wan", steps=2, rank=2)
    assert any(not torch.equal(first[key], value) for key, value in load_file(file).items())
    file.rename(file.with_name("theirs.safetensors"))
    save_file({"x": torch.zeros(1)}, own_folder / "loras" / "foreign.safetensors")
    (own_folder / "loras" / "broken.safetensors").write_text("no tensors")
    for name in ("theirs", "foreign", "broken"):
        path = own_folder / "loras" / f"{name}.safetensors"
        before = path.read_bytes()
        with pytest.raises(CacheError, match=rf"loras/{name}\.safetensors, which no training of this name wrote"):
            train(models["wan"], "wan", name, steps=1, rank=2)
        assert path.read_bytes() == before
        assert name not in files.names("branches")
    train(models["wan"], "wan", "foreign", steps=1)
    claim_lora(own_folder / "loras" / "new.safetensors")


def test_the_landscape_of_the_second_stage_is_that_of_branches_and_lora_together(models, own_folder):
    model = models["wan"]
    branched, _, _, summary = train(model, "wan", steps=4, rank=4, learning_rate=0.1)
    captions = Material(material("wan")["samples"], [prompt(5, 20 + n)[0] for n in range(4)], prompt(5, 12))
    lora = own_folder / "loras" / "mine.safetensors"
    both, alone = (survey(each, captions, 0) for each in (with_lora(branched, lora), branched))
    assert summary.endswith(f"{float(both.mean()):.4g} with it.")
    assert not torch.equal(both, alone)
    assert torch.equal(both, survey(trained(model, files.find("branches", "mine"), lora), captions, 0))
