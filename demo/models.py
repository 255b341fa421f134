"""The demo models: the host's own Flux and Wan networks, small enough to train on a desk."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .world import FRAMES

WEIGHTS = Path(__file__).parent / "weights" / "diffusion_models"
# The host reads what is not written here from the weights, and fixes the rest (heads of 128, text width 4096 for Wan).
FLUX: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 4,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
WAN: dict[str, Any] = {
    "model_type": "t2v",
    "dim": 256,
    "ffn_dim": 1024,
    "freq_dim": 256,
    "text_dim": 4096,
    "in_dim": 32,  # the latent and `positions`
    "out_dim": 16,
    "num_heads": 2,
    "num_layers": 6,
    "patch_size": (1, 2, 2),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
GATES = (
    "modulation",
    "time_projection",
    ".mod.",
    "_mod.",
    "final_layer",
    "head.",
    "adaLN",
)


def positions(frames: int, height: int = 16, width: int = 16) -> Tensor:
    """Where and when each latent pixel lies, [1, 16, frames, height, width], as sines and cosines of its y, x and frame.

    Wan's attention knows distances only, and a small one does not learn from noise where the picture's edges are or which
    frame comes first. It gets this map in extra input channels, as the models of the Wan family that take a control picture do.
    """
    axes = [torch.arange(frames) / (FRAMES - 1), *((torch.arange(size) + 0.5) / size for size in (height, width))]
    grids = torch.meshgrid(*axes, indexing="ij")
    waves = [
        wave(math.pi * turn * grid)
        for grid, turns in zip(grids, ((0.5, 1.0), (0.5, 1.0, 2.0), (0.5, 1.0, 2.0)), strict=True)
        for turn in turns
        for wave in (torch.sin, torch.cos)
    ]
    return torch.stack(waves)[None]


def build(family: str) -> nn.Module:
    """A new network of the host's class with freshly initialised parameters, in float32."""
    import comfy.ops

    if family == "flux":
        from comfy.ldm.flux.model import Flux as Network

        config = FLUX
    else:
        from comfy.ldm.wan.model import WanModel as Network

        config = WAN
    network: nn.Module = Network(**config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init)
    initialise(network.named_parameters())
    return network


@torch.no_grad()
def initialise(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Xavier matrices, unit norms, zero biases, gates and output layer. The host's layers come uninitialised."""
    for name, parameter in parameters:
        if parameter.ndim >= 2 and not any(gate in name for gate in GATES):
            nn.init.xavier_uniform_(parameter.view(parameter.shape[0], -1))
        elif "norm" in name and not name.endswith("bias"):
            parameter.fill_(1.0)
        else:
            parameter.zero_()
