"""Random weights for small VARs and their codecs."""

import torch


def fill(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 0.5 if value.ndim < 2 or "embed" in name or "pos" in name else value[0].numel() ** -0.5
            value.copy_(
                (1.0 if "norm" in name and name.endswith("weight") else 0.0) + scale * torch.randn(value.shape, generator=generator)
            )
    return model.eval()
