"""The VAR nodes in the real host: pictures, reports, previews, interruption, and which model lies where."""

import json

import comfy.model_management as mm
import comfy.utils
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from pack.cache_core import CacheError
from pack.cache_core.var.sampling import Sampling
from pack.cache_core.var.scales import Scales
from pack.cache_core.var.transformer import VAR, Layout
from pack.cache_core.var.vqvae import VQVAE
from pack.cache_core.var.vqvae import Layout as CodecLayout
from pack.demo.var.pictures import LABELS
from pack.nodes.adapters import residence
from pack.nodes.adapters.var import load, sample
from pack.nodes.var import EncoreCoDeSampler, EncoreVARSampler, classes_of
from safetensors.torch import save_file
from var_models import fill

pytestmark = pytest.mark.host
SCALES = Scales((1, 2, 3, 4))
CAPTION = "a large plain red ring at the left and a small plain blue star at the bottom, on a grey background"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("var")
    codec = CodecLayout(widths=(32, 32), blocks=1, latent=8, words=40, counted=4)
    save_file(fill(VQVAE(codec), 3).state_dict(), folder / "vae.safetensors")
    for name, depth, heads in (("large", 2, 2), ("small", 1, 1)):
        layout = Layout(depth, 64 * heads, heads, SCALES, 256 * heads, classes=36, latent=8, words=40)
        save_file(fill(VAR(layout), depth).state_dict(), folder / f"{name}.safetensors")
    return [load(folder / f"{name}.safetensors", folder / "vae.safetensors", None) for name in ("large", "small")]


def var(loaded, **given):
    settings = {"classes": "3\nred ring", "pictures": 2, "seed": 5, "cfg": 1.5, "top_k": 20, "top_p": 0.9, "temperature": 1.0} | given
    with torch.inference_mode():
        return EncoreVARSampler.execute(loaded, **settings).result


def code(drafter, refiner, drafted, **given):
    settings = {"classes": "3\nred ring", "pictures": 2, "seed": 5, "cfg": 1.5, "top_k": 20, "top_p": 0.9, "temperature": 1.0} | given
    with torch.inference_mode():
        return EncoreCoDeSampler.execute(drafter, refiner, drafted, **settings).result


def test_pictures_and_report_of_one_model(pair):
    pictures, table, told = var(pair[0])
    assert pictures.shape == (4, 8, 8, 3)
    assert 0 <= pictures.min() < pictures.max() <= 1
    report = json.loads(told)
    assert [(scale["side"], scale["tokens"], scale["model"]) for scale in report["scales"]] == [(n, n * n, "large") for n in (1, 2, 3, 4)]
    assert report["seconds"] == pytest.approx(sum(scale["seconds"] for scale in report["scales"]))
    assert report["kv_bytes"] == 2 * 2 * 8 * 30 * 128 * 4  # layers, k and v, rows of both prompts, tokens, width, bytes
    assert report["peak_bytes"] == report["kv_bytes"] + pair[0].model.model_size()
    assert "4 pictures" in table


def test_one_model_may_stop_at_a_scale_and_all_of_them_are_the_default(pair):
    pictures, table, told = var(pair[0], scales=2)
    assert pictures.shape == (4, 8, 8, 3)
    assert [scale["side"] for scale in json.loads(told)["scales"]] == [1, 2]
    assert "large, 2 scales" in table
    assert torch.equal(var(pair[0], scales=4)[0], var(pair[0])[0])
    assert not torch.equal(pictures, var(pair[0])[0])
    with pytest.raises(CacheError, match="1 to 4"):
        var(pair[0], scales=5)


@pytest.mark.parametrize("drafted", [1, 3])
def test_one_model_on_both_sides_paints_the_same_bit_for_bit(pair, drafted):
    assert torch.equal(code(pair[0], pair[0], drafted)[0], var(pair[0])[0])


@pytest.mark.parametrize("offload", [False, True])
def test_the_drafter_stays_or_goes_as_told(pair, offload):
    mm.unload_all_models()
    _, _, told = code(*pair, 2, offload=offload)
    scales = json.loads(told)["scales"]
    assert [(scale["model"], scale["tokens"]) for scale in scales] == [("large", 1), ("large", 4), ("small", 14), ("small", 16)]
    sizes = [loaded.model.model_size() for loaded in pair]
    assert scales[1]["weight_bytes"] == sizes[0]
    assert scales[3]["weight_bytes"] == (sizes[1] if offload else sum(sizes))
    assert residence.is_loaded(pair[0].model) != offload
    assert residence.is_loaded(pair[1].model)
    assert residence.is_loaded(pair[0].codec)


def test_each_scale_is_shown(pair, monkeypatch):
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **_: seen.append((value, total, preview)))
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)
    pictures = var(pair[0])[0]
    assert [(value, total) for value, total, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    last = torch.frombuffer(bytearray(seen[-1][2][1].tobytes()), dtype=torch.uint8).view(8, 8, 3) / 255
    assert torch.allclose(last, pictures[0], atol=1 / 255)
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.NoPreviews)
    var(pair[0])
    assert seen[-1][2] is None


def test_a_sampling_can_be_interrupted_between_scales(pair, monkeypatch):
    seen = []

    def hook(value, total, preview, **_):
        seen.append(value)
        mm.interrupt_current_processing(value == 2)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)  # without a picture the host tells of some scales only
    with pytest.raises(mm.InterruptProcessingException):
        code(*pair, 3)
    assert seen == [1, 2]


def test_classes_are_numbers_names_or_captions():
    ring = LABELS.index("red ring")
    assert classes_of("3\n\n Red  ring \n" + CAPTION, 36, 2) == [3, 3, ring, ring, ring, ring]
    assert classes_of("207", 1000, 1) == [207]
    for text, known in (("red ring", 1000), ("1000", 1000), ("pink ring", 36), ("36", 36)):
        with pytest.raises(CacheError, match=f"0 to {known - 1}"):
            classes_of(text, known, 1)
    with pytest.raises(CacheError, match="no class to paint"):
        classes_of(" \n", 36, 1)


def test_drafted_scales_must_leave_one_to_refine(pair):
    with pytest.raises(CacheError, match="1 to 3"):
        sample(pair, 4, [0], 0, Sampling())
