"""Trains the demo DiT with skip branches and its twin without, on the same data: `python -m demo.skip.train`. Seeded, and resumes."""

import argparse
import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from cache_core.skip.checkpoint import published
from cache_core.skip.dit import DiT, Shape

from .. import codec
from ..models import WEIGHTS
from ..muon import Muon
from ..train import STATE, write
from ..var.training import adamw, bfloat16
from ..world import render
from .classes import NAMES, NONE, draw

SHAPE = Shape(depth=10, width=128, heads=2, channels=16, out=16, classes=len(NAMES) + 1, side=8, inner=512)
TWINS = {"demo-dit-skip": SHAPE, "demo-dit": replace(SHAPE, skips=False)}
SHIFT = 3.0  # of the noise levels: sigma = s u / (1 + (s - 1) u)
RATE, BATCH, DROPOUT, KEEP = 1e-3, 24, 0.1, 0.997


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, options: object = None) -> Tensor:
    """Attention written out, [B, L, D]: of few tokens, on a processor, three times as fast as PyTorch's own."""
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights.to(v.dtype) @ v).transpose(1, 2).flatten(2)


class Twin:
    """One of the networks, its average and its optimisers."""

    def __init__(self, shape: Shape) -> None:
        self.network = DiT(shape, attend)
        self.network.start()
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        matrices, others = [], []
        for name, parameter in self.network.named_parameters():
            inner = name.startswith(("blocks.", "skips.")) and parameter.ndim == 2 and "adaLN" not in name
            (matrices if inner else others).append(parameter)
        self.optimisers: list[torch.optim.Optimizer] = [Muon(matrices, RATE), adamw(others, RATE)]

    def step(self, share: float, keep: float, noisy: Tensor, sigma: Tensor, labels: Tensor, goal: Tensor) -> float:
        """One optimiser step at `share` of the full rate; the rectified-flow loss."""
        with bfloat16():
            loss = (self.network(noisy, sigma * 1000, labels).float() - goal).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = RATE * share
                optimiser.step()
                optimiser.zero_grad()
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1 - keep)
        return loss.item()

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed training needs."""
        found = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for n, optimiser in enumerate(self.optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                found |= {f"optimiser.{n}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        return found

    def load(self, kept: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for part, module in (("network", self.network), ("average", self.average)):
            module.load_state_dict({k.removeprefix(f"{part}."): v for k, v in kept.items() if k.startswith(f"{part}.")})
        for n, optimiser in enumerate(self.optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in kept.items():
                if key.startswith(f"optimiser.{n}."):
                    _, _, index, name = key.split(".")
                    state.setdefault(int(index), {})[name] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def draw_batch(rng: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents [B, 16, 16, 16], their noise levels [B], labels [B], and the velocities to learn."""
    labels = [rng.randrange(NONE) for _ in range(BATCH)]
    latent = codec.encode(render([draw(label, rng) for label in labels], rng))[:, :, 0]
    odds = torch.randn(BATCH).exp() * SHIFT
    sigma = odds / (1 + odds)
    noise = torch.randn_like(latent)
    told = torch.tensor([NONE if rng.random() < DROPOUT else label for label in labels])
    return latent + sigma[:, None, None, None] * (noise - latent), sigma, told, noise - latent


def state_of(name: str) -> Path:
    """Where a twin's training state is kept."""
    return STATE / f"{name}.safetensors"


def load(twins: dict[str, Twin]) -> int:
    """The step reached by both; their states are read back."""
    done = 0
    for name, twin in twins.items():
        if state_of(name).exists():
            with safe_open(state_of(name), "pt") as file:
                twin.load({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
                done = int(file.metadata()["step"])
    return done


def save(twins: dict[str, Twin], step: int, about: dict[str, int]) -> None:
    """Write the states, and the averages as the files that ship: bfloat16, in the published key layout."""
    for name, twin in twins.items():
        write(state_of(name), twin.tensors(), {"step": str(step)})
        shipped = {key: value.bfloat16() for key, value in published(twin.average.state_dict()).items()}
        told = {"trained": json.dumps(about | {"step": step}), "prediction": "flow", "shift": str(SHIFT), "heads": str(SHAPE.heads)}
        write(WEIGHTS / f"{name}.safetensors", shipped, told)


def train(steps: int, seed: int, every: int) -> None:
    """Train both to the end from the step reached; the rate falls to 0 by a cosine."""
    torch.manual_seed(seed)
    twins = {name: Twin(shape) for name, shape in TWINS.items()}
    done = load(twins)
    means: dict[str, float] = {}
    bar = tqdm(range(done, steps), initial=done, total=steps, mininterval=10)
    for step in bar:
        rng = random.Random(seed * 1_000_003 + step)
        torch.manual_seed(rng.getrandbits(48))
        noisy, sigma, labels, goal = draw_batch(rng)
        share, keep = min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / steps)), min(KEEP, (step + 1) / (step + 10))
        for name, twin in twins.items():
            loss = twin.step(share, keep, noisy, sigma, labels, goal)
            means[name] = 0.98 * means.get(name, loss) + 0.02 * loss
        bar.set_postfix({name: f"{mean:.4f}" for name, mean in means.items()})
        if (step + 1) % every == 0 or step + 1 == steps:
            if not all(map(math.isfinite, means.values())):
                raise FloatingPointError(f"The losses are {means} at step {step + 1}; the last good states are kept.")
            save(twins, step + 1, {"of": steps, "seed": seed})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="steps between saves")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(options.steps, options.seed, options.every)
