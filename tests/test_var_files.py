"""VAR's files: the key layouts of the published checkpoints load, and what else lies in a folder is refused in words."""

import pytest
import torch
from pack.cache_core import CacheError
from pack.cache_core.var.load import load_var, load_vqvae
from pack.cache_core.var.scales import SIDES_256, SIDES_512, Scales
from safetensors.torch import save_file


def var_keys(depth, width, sides, classes, shared):
    """Keys and shapes of the published checkpoints, as listed in the paper's code."""
    tokens, hidden = sum(side**2 for side in sides), 4 * width
    keys = {
        "pos_start": (1, sides[0] ** 2, width), "pos_1LC": (1, tokens, width), "lvl_1L": None,
        "attn_bias_for_masking": (1, 1, tokens, tokens), "word_embed.weight": (width, 32), "word_embed.bias": (width,),
        "class_emb.weight": (classes + 1, width), "lvl_embed.weight": (len(sides), width), "head_nm.ada_lin.1.weight": (2 * width, width),
        "head_nm.ada_lin.1.bias": (2 * width,), "head.weight": (4096, width), "head.bias": (4096,),
    }  # fmt: skip
    if shared:
        keys |= {"shared_ada_lin.1.weight": (6 * width, width), "shared_ada_lin.1.bias": (6 * width,)}
    for n in range(depth):
        block = {
            "attn.scale_mul_1H11": (1, width // 64, 1, 1), "attn.q_bias": (width,), "attn.v_bias": (width,), "attn.zero_k_bias": (width,),
            "attn.mat_qkv.weight": (3 * width, width), "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "ffn.fc1.weight": (hidden, width), "ffn.fc1.bias": (hidden,), "ffn.fc2.weight": (width, hidden), "ffn.fc2.bias": (width,),
        }  # fmt: skip
        own = {"ada_gss": (1, 1, 6, width)} if shared else {"ada_lin.1.weight": (6 * width, width), "ada_lin.1.bias": (6 * width,)}
        keys |= {f"blocks.{n}.{name}": shape for name, shape in (block | own).items()}
    weights = {name: 0.02 * torch.randn(shape) for name, shape in keys.items() if shape}
    weights["lvl_1L"] = torch.cat([torch.full((side**2,), n) for n, side in enumerate(sides)])[None]
    return weights


def vqvae_keys(width):  # noqa: C901
    """Those of vae_ch160v4096z32 with another width: levels 1, 1, 2, 2, 4, two blocks, attention at the last level."""
    keys, levels = {}, [width * n for n in (1, 1, 2, 2, 4)]

    def conv(name, inside, outside, kernel):
        keys[f"{name}.weight"], keys[f"{name}.bias"] = (outside, inside, kernel, kernel), (outside,)

    def norm(name, size):
        keys[f"{name}.weight"], keys[f"{name}.bias"] = (size,), (size,)

    def residual(name, inside, outside):
        norm(f"{name}.norm1", inside), conv(f"{name}.conv1", inside, outside, 3)
        norm(f"{name}.norm2", outside), conv(f"{name}.conv2", outside, outside, 3)
        if inside != outside:
            conv(f"{name}.nin_shortcut", inside, outside, 1)

    def attention(name, size):
        norm(f"{name}.norm", size), conv(f"{name}.qkv", size, 3 * size, 1), conv(f"{name}.proj_out", size, size, 1)

    for part, blocks in (("encoder.down", 2), ("decoder.up", 3)):
        for n, size in enumerate(levels):
            before = levels[max(n - 1, 0)] if "down" in part else levels[min(n + 1, 4)]
            for block in range(blocks):
                residual(f"{part}.{n}.block.{block}", before if block == 0 else size, size)
                if n == 4:
                    attention(f"{part}.{n}.attn.{block}", size)
        for n in range(4):
            conv(f"encoder.down.{n}.downsample.conv", levels[n], levels[n], 3)
            conv(f"decoder.up.{n + 1}.upsample.conv", levels[n + 1], levels[n + 1], 3)
    for part, first, last in (("encoder", (3, levels[0]), (levels[4], 32)), ("decoder", (32, levels[4]), (levels[0], 3))):
        conv(f"{part}.conv_in", *first, 3), conv(f"{part}.conv_out", *last, 3), norm(f"{part}.norm_out", last[0])
        residual(f"{part}.mid.block_1", levels[4], levels[4]), residual(f"{part}.mid.block_2", levels[4], levels[4])
        attention(f"{part}.mid.attn_1", levels[4])
    conv("quant_conv", 32, 32, 3), conv("post_quant_conv", 32, 32, 3)
    for n in range(4):
        conv(f"quantize.quant_resi.qresi_ls.{n}", 32, 32, 3)
    keys |= {"quantize.embedding.weight": (4096, 32), "quantize.ema_vocab_hit_SV": (10, 4096)}
    return {name: 0.05 * torch.randn(shape) for name, shape in keys.items()}


@pytest.mark.parametrize(("sides", "shared"), [(SIDES_256, False), (SIDES_512, True)])
def test_real_key_layouts_load_from_pth(tmp_path, sides, shared):
    weights = var_keys(2, 128, sides, 1000, shared)
    torch.save(weights, tmp_path / "var_d2.pth")
    model = load_var(tmp_path / "var_d2.pth")
    layout = model.layout
    assert (layout.depth, layout.width, layout.heads, layout.scales.sides) == (2, 128, 2, sides)
    assert (layout.classes, layout.words, layout.latent, layout.shared) == (1000, 4096, 32, shared)
    assert torch.equal(model.blocks[1].ffn.fc2.weight, weights["blocks.1.ffn.fc2.weight"])


def test_scales_are_known_where_the_table_is_missing(tmp_path):
    weights = var_keys(1, 64, SIDES_256, 1000, False)
    del weights["lvl_1L"], weights["attn_bias_for_masking"], weights["blocks.0.attn.zero_k_bias"]
    save_file(weights, tmp_path / "refiner_8.safetensors")
    assert load_var(tmp_path / "refiner_8.safetensors").scales.sides == SIDES_256


def test_real_codec_layout_loads_and_paints(tmp_path):
    weights = vqvae_keys(32)
    torch.save(weights, tmp_path / "vae.pth")
    codec = load_vqvae(tmp_path / "vae.pth")
    assert (codec.layout.widths, codec.layout.blocks, codec.layout.shrink) == ((32, 32, 64, 64, 128), 2, 16)
    scales = Scales((1, 2))
    words = codec.encode(torch.rand(1, 3, 32, 32), scales)
    assert [found.shape for found in words] == [(1, 1), (1, 4)]
    assert codec.decode(torch.randn(1, 32, 2, 2)).shape == (1, 3, 32, 32)


def test_wrong_files_say_what_to_choose(tmp_path):
    torch.save(vqvae_keys(32), tmp_path / "vae.pth")
    torch.save(var_keys(1, 64, SIDES_256, 10, False) | {"extra": torch.ones(1)}, tmp_path / "extra.pth")
    torch.save({"model": {}, "epoch": 3}, tmp_path / "nested.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 20)
    for load, file, text in [
        (load_var, "vae.pth", "var_d16.pth"), (load_vqvae, "extra.pth", "not a VAR's codec"), (load_var, "extra.pth", "extra"),
        (load_var, "nested.pth", "not a table of tensors"), (load_var, "broken.safetensors", "cannot be read"),
    ]:  # fmt: skip
        with pytest.raises(CacheError, match=text):
            load(tmp_path / file)
