"""Every family's own network, made tiny, and a way to walk it through a sampling without the host's samplers."""

from collections import Counter

import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.hunyuan_video.model
import comfy.ldm.lightricks.model
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.model
import comfy.ops
import torch
from comfy.patcher_extension import WrappersMP
from pack.cache_core import Recipe, Run, Schedule, Site, Target
from pack.cache_core.policies import Mask, Never
from pack.cache_core.predictors import Hold
from pack.nodes.adapters import host, inside, options

SCHEDULE = Schedule((1.0, 0.8, 0.6, 0.4, 0.2, 0.0))
MASK = Mask(frozenset({0, 1, 3}), 5)
KINDS = {"operations": comfy.ops.disable_weight_init, "dtype": torch.float32, "device": "cpu"}
FLUX = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32, "context_in_dim": 64, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 1, "depth": 2, "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = FLUX | {
    "in_channels": 32, "out_channels": 32, "patch_size": 1, "vec_in_dim": None, "axes_dim": [32] * 4, "theta": 2000, "qkv_bias": False,
    "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "txt_ids_dims": [3], "mlp_ratio": 3.0,
}  # fmt: skip
CHROMA = {key: FLUX[key] for key in FLUX if key not in ("guidance_embed",)} | {
    "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "in_dim": 64, "out_dim": 128, "hidden_dim": 64, "n_layers": 1,
}  # fmt: skip
HUNYUAN = {key: FLUX[key] for key in FLUX if key not in ("txt_ids_dims", "in_channels")} | {
    "in_channels": 16, "patch_size": [1, 2, 2], "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
    "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
WAN = {
    "dim": 128, "ffn_dim": 256, "freq_dim": 256, "text_dim": 64, "in_dim": 16, "out_dim": 16, "num_heads": 1, "num_layers": 3,
    "patch_size": (1, 2, 2), "cross_attn_norm": True,
}  # fmt: skip
IMAGE, VIDEO, TEXT = (
    torch.zeros(1, 16, 8, 8),
    torch.zeros(1, 16, 3, 8, 8),
    torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(3)),
)


def flux(**extra):
    return comfy.ldm.flux.model.Flux(**FLUX | extra, **KINDS)


def wan(kind=comfy.ldm.wan.model.WanModel, **extra):
    return kind(**WAN | extra, **KINDS)


def qwen():
    return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        in_channels=64, num_layers=3, num_attention_heads=1, joint_attention_dim=64, **KINDS
    )


def ltxv():
    return comfy.ldm.lightricks.model.LTXVModel(
        in_channels=16, cross_attention_dim=128, num_attention_heads=2, caption_channels=64, num_layers=3, **KINDS
    )


GUIDED = {"y": torch.ones(1, 32), "guidance": torch.tensor([3.5])}
FAMILIES = {  # how it is made, its latent, what else it is called with, and how many blocks it has
    "Flux": (flux, IMAGE, GUIDED, 4),
    "Flux Kontext": (flux, IMAGE, GUIDED | {"ref_latents": [torch.ones(1, 16, 6, 6)]}, 4),
    "Flux Fill": (lambda: flux(in_channels=96), torch.zeros(1, 96, 8, 8), GUIDED, 4),
    "Flux 2": (lambda: comfy.ldm.flux.model.Flux(**FLUX2, **KINDS), torch.zeros(1, 32, 4, 4), {"guidance": torch.tensor([3.5])}, 4),
    "Chroma": (lambda: comfy.ldm.chroma.model.Chroma(**CHROMA, **KINDS), IMAGE, {"guidance": torch.tensor([0.0])}, 4),
    "HunyuanVideo": (lambda: comfy.ldm.hunyuan_video.model.HunyuanVideo(**HUNYUAN, **KINDS), VIDEO, GUIDED, 4),
    "Qwen-Image": (qwen, IMAGE[:, :, None], {}, 3),
    "LTXV": (ltxv, VIDEO, {"attention_mask": None}, 3),
    "Wan 2.1": (wan, VIDEO, {}, 3),
    "Wan 2.1 I2V": (lambda: wan(model_type="i2v", in_dim=36), torch.zeros(1, 36, 3, 8, 8), {"clip_fea": torch.ones(1, 257, 1280)}, 3),
    "Wan VACE": (
        lambda: wan(comfy.ldm.wan.model.VaceWanModel, vace_layers=3, vace_in_dim=96),
        VIDEO,
        {"vace_context": torch.ones(1, 1, 96, 3, 8, 8), "vace_strength": [1.0]},
        3,
    ),
    "Wan 2.2 5B": (lambda: wan(in_dim=48, out_dim=48), torch.zeros(1, 48, 3, 8, 8), {}, 3),
}


def fill(network):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            plain = torch.randn(value.shape, generator=generator)
            if value.ndim > 1 and "modulation" not in name and "table" not in name:
                value.copy_(plain / value[0].numel() ** 0.5)
            else:
                value.copy_(1.0 + 0 * plain if "norm" in name and "bias" not in name else 0.1 * plain)
    return network.eval()


def walk(network, latent, extra, recipe=None, family="", text=TEXT):
    """Euler steps with the network itself; returns the last latent, the run and how often each block was called."""
    run, calls = Run(recipe or Recipe(Never(), Hold()), SCHEDULE), Counter()
    if recipe is not None:
        inside.check(run, network, compiled=False)
    hooks = [
        block.register_forward_hook(lambda module, args, y, name=name: calls.update([name]))
        for name, block in network.named_modules()
        if name.rsplit(".", 1)[0] in ("blocks", "double_blocks", "single_blocks", "transformer_blocks") and name[-1].isdigit()
    ]
    x = latent + torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    for n, sigma in enumerate(SCHEDULE.sigmas[:-1]):
        time = torch.full((1, latent.shape[2]) if family == "Wan 2.2 5B" else (1,), sigma * (1000 if "Wan" in family else 1))
        passed = {"uuids": ["one"], "sigmas": time}
        if recipe is not None:
            passed |= {options.KEY: run, "wrappers": {WrappersMP.DIFFUSION_MODEL: {options.KEY: [host._blocks]}}}
        run.begin(sigma, x)
        with torch.inference_mode():
            y = network(x, time, context=text, transformer_options=passed, **extra)
        run.end()
        x = x.clone()
        x[:, : y.shape[1]] += (SCHEDULE.sigmas[n + 1] - sigma) * y
    for hook in hooks:
        hook.remove()
    run.ledger.settle()
    return x, run, calls


def at(site, policy=MASK, predictor=None, **more):
    target = Target.OUTPUT if site is Site.BRANCH else Target.RESIDUAL
    return Recipe(policy, predictor or Hold(), site, target, **more)


INSIDE = [Site.STACK, Site.BLOCK, Site.BRANCH]
