"""Models that bring skip branches of their own: the key layouts of the published files, DiT, Latte and Hunyuan-DiT in the host."""

from dataclasses import replace

import pytest
import torch
from host_models import BlockCalls, sample
from pack.cache_core import CacheError
from pack.cache_core.policies import Never
from pack.cache_core.skip import checkpoint
from pack.cache_core.skip.cache import skip_cache
from pack.nodes.adapters import dit, host, reports
from skip_models import CLIP, SHAPE, file_like, randomised


@pytest.mark.host
@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, skips=False), CLIP], ids=["dit-skip", "dit", "latte-skip"])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_published_files_load_without_what_a_training_needs(tmp_path, shape, form):
    from safetensors.torch import save_file

    weights = file_like(shape)
    path = tmp_path / f"model.{form}"
    if form == "pt":
        other = {key: torch.zeros_like(value) for key, value in weights.items()}
        torch.save({"model": {f"module.{key}": value for key, value in other.items()}, "ema": weights, "opt": {"state": {}}}, path)
    else:
        save_file(weights, path, {"heads": "2"})
    model = dit.load(path)
    found = checkpoint.published(model.model.diffusion_model.state_dict())
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert model.model.diffusion_model.shape == replace(shape, heads=2 if form == "safetensors" else 1)


def test_the_key_layout_is_the_published_one():
    weights = file_like(replace(SHAPE, depth=2))
    extra = {"skip_norms.0.weight", "skip_norms.0.bias", "skip_linears.0.linear.weight", "skip_linears.0.linear.bias"}
    block = {
        f"{part}.{kind}" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1") for kind in ("weight", "bias")
    }
    outer = {"x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear", "final_layer.adaLN_modulation.1"}
    expected = (
        extra | {f"blocks.{n}.{key}" for n in (0, 1) for key in block} | {f"{key}.{kind}" for key in outer for kind in ("weight", "bias")}
    )
    assert weights.keys() == expected | {"y_embedder.embedding_table.weight", "pos_embed"}


@pytest.mark.parametrize(("keys", "words"), [(["mlp_t5.0.weight"], "Hunyuan-DiT"), (["blocks.0.x"], "no DiT and no Latte")])
def test_other_weights_are_refused_in_words(keys, words):
    with pytest.raises(CacheError, match=words):
        checkpoint.shape_of({key: torch.zeros(1) for key in keys}, {})


@pytest.mark.host
def test_latte_and_its_cache_sample_clips_by_labels_with_guidance():
    model = dit.build(file_like(CLIP), {"heads": "2"})
    shape = {"positive": dit.condition([3]), "shape": (4, 3, 8, 8), "cfg": 1.0}
    bare = sample(model, "latte", **shape)
    assert bare.shape == (1, 4, 3, 8, 8)
    assert torch.isfinite(bare).all()
    with BlockCalls(model) as calls:
        sample(host.attach(model, skip_cache(4)), "latte", **shape)
    assert [calls.calls[f"blocks.{n}"] for n in range(8)] == [8, 8, 2, 2, 2, 2, 8, 8]
    with pytest.raises(CacheError, match="no class 11"):
        sample(model, "latte", **{**shape, "positive": dit.condition([11])})


@pytest.mark.host
def test_skip_cache_reaches_the_native_skips_of_hunyuan_dit():
    import comfy.model_base
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    sizes = {
        "depth": 6,
        "hidden_size": 32,
        "num_heads": 2,
        "text_states_dim": 16,
        "text_states_dim_t5": 16,
        "text_len": 4,
        "text_len_t5": 4,
    }
    config = comfy.supported_models.HunyuanDiT({"image_model": "hydit", **sizes})
    config.set_inference_dtype(torch.float32, None)
    base = comfy.model_base.HunyuanDiT(config, device="cpu")
    with torch.no_grad():
        for value in base.diffusion_model.parameters():
            value.zero_()
    randomised(base.diffusion_model)
    model = comfy.model_patcher.ModelPatcher(base, comfy.model_management.get_torch_device(), torch.device("cpu"))
    told = {"conditioning_mt5xl": torch.randn(1, 4, 16), "attention_mask": torch.ones(1, 4), "attention_mask_mt5xl": torch.ones(1, 4)}
    label = [[torch.randn(1, 4, 16), told]]
    with BlockCalls(model) as calls:
        latent = sample(host.attach(model, skip_cache(4)), "hydit", positive=label, shape=(4, 8, 8))
    assert [calls.calls[f"blocks.{n}"] for n in range(6)] == [8, 2, 2, 2, 2, 8]
    ledger = reports.find(latent)[0]
    assert (ledger.computed, ledger.site, ledger.notes) == (2, "stack", [])
    idle = host.attach(model, replace(skip_cache(4), policy=Never()))
    assert torch.equal(sample(idle, "hydit", positive=label, shape=(4, 8, 8)), sample(model, "hydit", positive=label, shape=(4, 8, 8)))
