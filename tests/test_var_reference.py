"""Our VAR and CoDe beside the published code, where a checkout of czg1225/CoDe (which holds VAR's) is named by CODE_PATH."""

import importlib
import os
import sys
import types

import pytest
import torch
from pack.cache_core.var.decode import Order, decode
from pack.cache_core.var.load import load_var, load_vqvae
from pack.cache_core.var.sampling import Sampling, draws
from pack.cache_core.var.scales import SIDES_256, Scales

pytestmark = pytest.mark.skipif("CODE_PATH" not in os.environ, reason="CODE_PATH names no checkout of czg1225/CoDe")
SCALES = Scales()
LIKELIEST = {"top_k": 1, "top_p": 0.0}  # leaves nothing to chance, whose numbers differ


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Codec, a large and a small VAR of the published classes, and ours loaded from their files."""
    names = ("dist", "models", "huggingface_hub")
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] in names}
    for name in kept:
        del sys.modules[name]
    hub = types.SimpleNamespace(PyTorchModelHubMixin=type("Mixin", (), {"__init_subclass__": classmethod(lambda cls, **_: None)}))
    device = types.SimpleNamespace(get_device=lambda: torch.device("cpu"), initialized=lambda: False, get_world_size=lambda: 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(os.environ["CODE_PATH"])
        patch.setitem(sys.modules, "dist", device)
        patch.setitem(sys.modules, "huggingface_hub", hub)
        codec_class, var_class = importlib.import_module("models.vqvae").VQVAE, importlib.import_module("models.var").VAR
    torch.manual_seed(0)
    codec = codec_class(vocab_size=50, z_channels=32, ch=32, v_patch_nums=SIDES_256, test_mode=True)
    folder = tmp_path_factory.mktemp("published")
    torch.save(codec.state_dict(), folder / "vae.pth")
    theirs, ours = [codec], [load_vqvae(folder / "vae.pth")]
    for name, depth in (("drafter", 3), ("refiner", 1)):
        sizes = {"num_classes": 5, "depth": depth, "embed_dim": 64 * depth, "num_heads": depth, "patch_nums": SIDES_256}
        model = var_class(
            vae_local=codec, attn_l2_norm=True, flash_if_available=False, fused_if_available=False, cond_drop_rate=0.0, **sizes
        )
        model.init_weights(init_adaln=0.5, init_adaln_gamma=0.3, init_head=1.0, init_std=0.05)
        torch.save(model.eval().state_dict(), folder / f"{name}.pth")
        theirs.append(model)
        ours.append(load_var(folder / f"{name}.pth"))
    for name in [name for name in sys.modules if name.split(".")[0] in names]:
        del sys.modules[name]
    sys.modules.update(kept)
    return theirs, ours


@torch.no_grad()
def test_words_inputs_logits_and_pictures_are_the_published_ones(published):
    (codec, drafter, _), (ours, model, _) = published
    pictures, classes = torch.rand(2, 3, 256, 256), torch.tensor([1, 3])
    words = codec.img_to_idxBl(2 * pictures - 1)
    assert all(torch.equal(a, b) for a, b in zip(ours.encode(pictures, SCALES), words, strict=True))
    shown = codec.quantize.idxBl_to_var_input(words)
    assert torch.allclose(ours.quantize.inputs(SCALES, words), shown, atol=1e-6)
    assert torch.allclose(model(classes, shown), drafter(classes, shown), atol=1e-4)
    features = torch.randn(1, 32, 16, 16)
    assert torch.allclose(ours.decode(features), (codec.fhat_to_img(features) + 1) / 2, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("drafted", [None, 6, 8])
def test_whole_samplings_are_the_published_ones(published, drafted):
    (_, drafter, refiner), (codec, large, small) = published
    classes, common = torch.tensor([1, 3]), {"g_seed": 0, "cfg": 2.5}
    order = Order([1, 3], draws(0, SCALES, 2), Sampling(cfg=2.5, **LIKELIEST))
    if drafted is None:
        theirs = drafter.autoregressive_infer_cfg(2, classes, **common, **LIKELIEST)
        ours = decode(large, codec.quantize, order)
    else:
        common |= {"top_k": [1] * 10, "top_p": 0.0, "temp": [1.0] * 10}
        features, hub = drafter.autoregressive_infer_cfg_draft(2, classes, **common, exit_num=drafted)
        theirs = refiner.autoregressive_infer_cfg_refine(2, classes, **common, draft=hub, f_hat=features, entry_num=drafted)
        ours = decode(small, codec.quantize, order, draft=decode(large, codec.quantize, order, until=drafted))
    assert torch.allclose(codec.decode(ours.features), theirs, atol=1e-3)
