"""Tiny real models: ComfyUI's own networks with random weights, and a way to sample them that counts what is called."""

from collections import Counter
from typing import Any

import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.supported_models
import torch

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 32, "context_in_dim": 64,
    "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 2, "axes_dim": [16, 56, 56],
    "theta": 10000, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "ffn_dim": 256, "freq_dim": 256, "text_dim": 64, "in_dim": 16,
    "out_dim": 16, "num_heads": 1, "num_layers": 3, "patch_size": (1, 2, 2), "window_size": (-1, -1), "qk_norm": True,
    "cross_attn_norm": True, "eps": 1e-6,
}  # fmt: skip
WIDTH = 64
BLOCKS = {"flux": 3, "wan": 3}
LATENT = {"flux": (16, 8, 8), "wan": (16, 3, 8, 8)}


def make(family: str) -> Any:
    """A ModelPatcher of a tiny model, always the same."""
    if family == "flux":
        config, base = comfy.supported_models.Flux(dict(FLUX)), comfy.model_base.Flux
    else:
        config, base = comfy.supported_models.WAN21_T2V(dict(WAN)), comfy.model_base.WAN21
    config.set_inference_dtype(torch.float32, None)
    model = base(config, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.diffusion_model.named_parameters():
            plain = torch.randn(value.shape, generator=generator)
            if value.ndim > 1 and "modulation" not in name:
                value.copy_(plain / value[0].numel() ** 0.5)
            else:
                value.copy_(1.0 + 0 * plain if "norm" in name and "bias" not in name else 0.02 * plain)
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())


def prompt(tokens: int, seed: int, **extra: Any) -> list[list[Any]]:
    """A condition of so many text tokens in the host's format."""
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, tokens, WIDTH, generator=generator)
    return [[context, {"pooled_output": torch.randn(1, 32, generator=generator), "guidance": 3.5, **extra}]]


def sample(
    model: Any,
    family: str,
    *,
    steps: int = 8,
    cfg: float = 1.0,
    sampler: str | Any = "euler",
    batch: int = 1,
    seed: int = 1,
    negative_tokens: int = 5,
    positive: Any = None,
    shape: tuple[int, ...] | None = None,
    denoise: float = 1.0,
    callback: Any = None,
    sigmas: torch.Tensor | None = None,
) -> torch.Tensor:
    """The final latent, by the host's own sampler."""
    latent = torch.zeros(batch, *(shape or LATENT[family]))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    positive = positive or prompt(5, 11)
    negative = prompt(negative_tokens, 12)
    with torch.inference_mode():
        if isinstance(sampler, str) and sigmas is None:
            return comfy.sample.sample(
                model, noise, steps, cfg, sampler, "simple", positive, negative, latent, denoise=denoise,
                disable_pbar=True, seed=seed, callback=callback,
            )  # fmt: skip
        solver = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        if sigmas is None:
            sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        return comfy.sample.sample_custom(
            model, noise, cfg, solver, sigmas, positive, negative, latent, callback=callback, disable_pbar=True, seed=seed
        )


class BlockCalls:
    """Counts calls of each transformer block, and the rows of their batches."""

    def __init__(self, model: Any) -> None:
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        network = model.model.diffusion_model
        self._hooks = [
            block.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, block in network.named_modules()
            if name.rsplit(".", 1)[0] in ("blocks", "double_blocks", "single_blocks") and name[-1].isdigit()
        ]

    def _hook(self, name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            self.calls[name] += 1
            self.rows[name] += len(first)

        return hook

    def __enter__(self) -> "BlockCalls":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def evaluations(self) -> set[int]:
        """Calls of every block, as a set: one number where all blocks ran equally often."""
        return set(self.calls.values())


def newest(latent: torch.Tensor) -> Any:
    """The ledger of the sampling that made `latent`."""
    from pack.nodes.adapters import reports

    return reports.find(latent)[0]
