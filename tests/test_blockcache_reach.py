"""Block Caching's measurements where branches, or blocks, are out of reach: what can be measured is, the rest is told in words."""

import json
from types import SimpleNamespace

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import pytest
import torch
from blockcache_runs import STEPS, Bar, flat, measured, sampling
from families import FAMILIES, fill, walk
from host_models import LATENT, prompt
from pack.cache_core import CacheError, Place, Schedule, Site, Step
from pack.cache_core import published as p
from pack.cache_core.blockcache import Changes, Rollouts, for_reduction
from pack.cache_core.blockcache.analysis import Redundancy
from pack.cache_core.blockcache.profile import load
from pack.cache_core.types import Observation
from pack.nodes import blockcache as nodes
from pack.nodes.adapters import dit, families, options
from pack.nodes.adapters.analysis import samplings
from pack.nodes.adapters.blockcache import Measurement, profiled, student
from pack.nodes.adapters.extent import grid_of
from pack.nodes.adapters.lessons import Lesson
from pack.nodes.blockcache import files
from skip_models import CLIP, SHAPE, file_like, randomised

pytestmark = pytest.mark.host
SAMPLING = {"seed": 1, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "OWN", tmp_path)
    monkeypatch.setattr(nodes.EncoreBlockProfile, "hidden", SimpleNamespace(unique_id=None), raising=False)
    return tmp_path


def hunyuan():
    sizes = {"depth": 6, "hidden_size": 32, "num_heads": 2}
    texts = {"text_states_dim": 16, "text_states_dim_t5": 16, "text_len": 4, "text_len_t5": 4}
    config = comfy.supported_models.HunyuanDiT({"image_model": "hydit", **sizes, **texts})
    config.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.HunyuanDiT(config, device="cpu")
    for value in base.diffusion_model.parameters():
        value.data.zero_()
    randomised(base.diffusion_model)
    return comfy.model_patcher.ModelPatcher(base, comfy.model_management.get_torch_device(), torch.device("cpu"))


DITS = {  # how it is made, a latent, blocks as the host's patches count them
    "HostDiT": (lambda: dit.build(file_like(SHAPE), {"heads": "2"}), (4, 8, 8), 6),
    "HostLatte": (lambda: dit.build(file_like(CLIP), {"heads": "2"}), (4, 3, 8, 8), 4),
    "HunYuanDiT": (hunyuan, (4, 8, 8), 6),
}


def given(name):
    make, latent, _ = DITS[name]
    positive, negative = dit.condition([3]), dit.condition([-1])
    if name == "HunYuanDiT":
        masks = {"attention_mask": torch.ones(1, 4), "attention_mask_mt5xl": torch.ones(1, 4)}
        positive = negative = [[torch.randn(1, 4, 16), {"conditioning_mt5xl": torch.randn(1, 4, 16), **masks}]]
    return {
        "model": make(), "positive": positive, "negative": negative, "latent_image": {"samples": torch.zeros(1, *latent)}, **SAMPLING
    }  # fmt: skip


@pytest.mark.parametrize("name", DITS)
class TestBranchesOutOfReach:
    @torch.inference_mode()
    def test_a_profile_is_of_the_blocks_and_says_so(self, name):
        source = given(name)
        made, _, summary = nodes.EncoreBlockProfile.execute(**source, trajectories=1, branches=True, device="gpu", name="tiny").result
        assert {place.branch for place in made.places} == {None}
        assert made.blocks == DITS[name][2]
        assert "1 uncached samplings" in summary
        assert f"{name} has none of attention, cross-attention, mlp in a form that can be skipped alone." in summary
        assert "The blocks were measured as wholes." in summary

    @torch.inference_mode()
    def test_an_analysis_leaves_them_out_and_says_so(self, name):
        output = nodes.EncoreAnalysis.execute(**given(name), trajectories=1)
        plot, numbers = output.result[0], json.loads(output.result[1])
        assert plot.ndim == 4
        assert list(numbers["places"]) == [f"block {n}" for n in range(DITS[name][2])]
        assert numbers["notes"] == output.ui["text"]
        assert "measured as wholes" in numbers["notes"][0]
        assert len(numbers["tokens"]["frames"]) == (3 if name == "HostLatte" else 1)


def test_no_alignment_is_learned_where_the_network_is_not_called_through_wrappers():
    with pytest.raises(CacheError, match=r"HunYuanDiT is not called through ComfyUI's wrappers, .* Use the schedule without"):
        student(hunyuan(), for_reduction(flat(6), 1.2), Lesson(Rollouts(), (0,)))


class TestBlocksOutOfReach:
    def test_a_model_without_known_blocks_is_refused_before_it_is_sampled(self, model, monkeypatch):
        monkeypatch.setattr(families, "NETWORKS", {})
        for ask in (lambda: Measurement("tiny", model), lambda: samplings(model)):
            with pytest.raises(CacheError, match=r"knows no way to the transformer blocks of .* can be measured are Flux, .* Connect a"):
                ask()

    def test_of_a_compiled_model_the_blocks_are_measured(self, model, family):
        compiled = model.clone()
        compiled.add_wrapper_with_key("apply_model", options.COMPILE, lambda executor, *args, **kwargs: executor(*args, **kwargs))
        measurement = Measurement("tiny", compiled, branches=True)
        assert measurement.sites == (Site.BLOCK,)
        assert "is compiled" in measurement.notes[0]
        with torch.inference_mode():
            made = profiled(sampling(compiled, family), measurement, 1, 1, Bar())
        assert torch.equal(made.changes, measured(model, family).changes)

    def test_a_model_that_leaves_its_blocks_out_is_told_in_words(self, model, family, monkeypatch):
        monkeypatch.setattr(model.model.diffusion_model, "_forward", lambda x, *_, **__: torch.zeros_like(x))
        with torch.inference_mode(), pytest.raises(CacheError, match=r"never called its first block .* Bypass the nodes that change it"):
            measured(model, family)
        source = {"positive": prompt(5, 11), "negative": prompt(5, 12), "latent_image": {"samples": torch.zeros(1, *LATENT[family])}}
        with torch.inference_mode(), pytest.raises(CacheError, match="never called its first block"):
            nodes.EncoreAnalysis.execute(model, trajectories=1, **source, **SAMPLING)


def seen(x, step=1, place=None):
    schedule = Schedule((1.0, 0.5, 0.0))
    return Observation(Step(schedule, schedule.sigmas[step], step), None, 0, step, x, place=place)


def test_what_comes_from_outside_of_the_network_is_no_residual():
    changes = Changes()
    changes.look(seen(torch.ones(1, 4, 8, 8)), torch.ones(1, 4, 8, 8), None)
    with pytest.raises(CacheError, match="No block of this model could be measured"):
        changes.profile("tiny", {}, 0, {})


class Watched(Redundancy):
    """What an analysis takes for the picture's rows of the first block's residual, one for each evaluation."""

    def __init__(self, *given):
        super().__init__(*given)
        self.rows = []

    def look(self, seen, new, old):
        super().look(seen, new, old)
        if seen.place.index == 0:
            self.rows.append(new[:, self._picture(seen, new.shape[1])])


@pytest.mark.parametrize("name", ["Flux", "Flux Kontext", "HunyuanVideo", "Qwen-Image", "Wan 2.1"])
def test_an_analysis_looks_at_the_pictures_rows_wherever_the_text_is(name):
    make, latent, extra, _ = FAMILIES[name]
    network, residuals = fill(make()), []
    blocks, grid = families.blocks_of(network), grid_of(network, latent.shape)
    inner = Watched(grid, blocks.text)
    inner.begin()

    def picture(args, kwargs):
        return kwargs.get("img", kwargs.get("hidden_states", args[0] if args else None))

    def hook(module, args, kwargs, found):
        parts = found if isinstance(found, tuple) else (found,)
        residuals.append(next(part - before.pop() for part in parts if part.shape == picture(args, kwargs).shape))

    before, first = [], blocks.block(network, blocks.keys(network)[0])
    first.register_forward_pre_hook(lambda module, args, kwargs: before.append(picture(args, kwargs).clone()), with_kwargs=True)
    first.register_forward_hook(hook, with_kwargs=True)
    walk(network, latent, extra, p.block_profile(inner), name)
    count = grid[0] * grid[1] * grid[2]
    assert len(inner.rows) == len(residuals) == 5
    assert all(torch.allclose(rows, whole[:, :count], atol=1e-5) for rows, whole in zip(inner.rows, residuals, strict=True))


def test_a_profile_names_what_a_block_makes_in_one(model, family, folder):
    made = measured(model, family, branches=True)
    called = [(place.index, made.branch(place)) for place in made.places if place.branch]
    if family == "flux":
        assert called == [(0, "attention"), (0, "mlp"), (1, "attention + mlp"), (2, "attention + mlp")]
    else:
        assert called == [(n, kind) for n in range(3) for kind in ("attention", "cross-attention", "mlp")]
    made.save(folder / "a.safetensors")
    found = load(folder / "a.safetensors")
    assert [found.branch(place) for place in made.places] == [made.branch(place) for place in made.places]
    assert made.branch(Place(0)) == ""
