"""LoRAs (arXiv:2106.09685) on a network's blocks, while it is trained: its own weights stay as they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PREFIX = "diffusion_model."  # of the keys that hosts read


class LoRA(nn.Module):
    """What a linear layer's output changes by: up(down(x)), zero at first."""

    def __init__(self, inner: int, outer: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Linear(inner, rank, bias=False)
        self.up = nn.Linear(rank, outer, bias=False)
        self.down.weight = nn.Parameter(torch.randn(rank, inner, generator=generator) / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.up(self.down(x.to(self.down.weight.dtype)))
        return result.to(x.dtype)


def loras(network: nn.Module, lists: Sequence[str], rank: int, seed: int) -> dict[str, LoRA]:
    """A LoRA for each linear layer in the block lists named `lists`, by the layer's name in `network`; `seed` draws their first weights."""
    generator = torch.Generator().manual_seed(seed)
    layers = ((name, part) for name, part in network.named_modules() if name.split(".")[0] in lists)
    return {name: LoRA(part.in_features, part.out_features, rank, generator) for name, part in layers if isinstance(part, nn.Linear)}


@contextmanager
def laid(network: nn.Module, made: dict[str, LoRA]) -> Iterator[None]:
    """The LoRAs act for the time of the context."""

    def added(lora: LoRA) -> Any:
        return lambda module, args, out: out + lora(args[0])

    hooks = [network.get_submodule(name).register_forward_hook(added(lora)) for name, lora in made.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def exported(made: dict[str, LoRA]) -> dict[str, Tensor]:
    """Weights as hosts load them."""
    found: dict[str, Tensor] = {}
    for name, lora in made.items():
        found[f"{PREFIX}{name}.lora_down.weight"] = lora.down.weight.detach().cpu().contiguous()
        found[f"{PREFIX}{name}.lora_up.weight"] = lora.up.weight.detach().cpu().contiguous()
        found[f"{PREFIX}{name}.alpha"] = torch.tensor(float(lora.down.out_features))
    return found
