"""Small DiTs and Lattes with skip branches, of random weights."""

from dataclasses import replace

import torch
from pack.cache_core.skip import checkpoint
from pack.cache_core.skip.dit import DiT, Shape
from pack.cache_core.skip.latte import Latte

SHAPE = Shape(depth=6, width=48, heads=2, channels=4, out=8, classes=11, side=4, inner=96)
CLIP = replace(SHAPE, depth=8, frames=3)


def randomised(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return network


def file_like(shape):
    """Weights of a network of these sizes under the published keys."""
    kind = Latte if shape.frames else DiT
    return checkpoint.published(randomised(kind(shape)).state_dict())
