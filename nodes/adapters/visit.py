"""One evaluation of the guided model at any latent and noise level, by a sampler of one step that takes them for its own."""

from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor


def visit(model: Any, x: Tensor, sigma: float, cfg: float, positive: Any, negative: Any, latent: Tensor) -> Tensor:
    """The guided velocity [B, C, ...] that `model` (ModelPatcher) gives at `x` [B, C, ...], in the sampler's own space.

    `latent` is the empty one that a sampling would start from. What is on the model acts as in any sampling.
    """
    found: list[Tensor] = []

    def step(network: Any, start: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        here = x.to(start)
        denoised = network(here, sigmas[0] * here.new_ones(len(here)), **extra_args)
        found.append(((here - denoised) / sigma).float().cpu())
        return start

    sigmas = torch.tensor([sigma, 0.0])
    sampler = comfy.samplers.KSAMPLER(step)
    noise = torch.zeros_like(latent, device="cpu")
    comfy.sample.sample_custom(model, noise, cfg, sampler, sigmas, positive, negative, latent, disable_pbar=True, seed=0)
    return found[0]
