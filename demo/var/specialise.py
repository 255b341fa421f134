"""Specialises the demo VARs to their halves of CoDe (arXiv 2411.17787): `python -m demo.var.specialise drafter` or `refiner`."""

import argparse
import random

import torch
from torch import Tensor, nn

from cache_core.var.load import load_var

from .training import adamw, bfloat16, export, train
from .transformers import SCALES, Taught, file

DRAFTED = 5  # scales of 7, as far down the pyramid as the paper's 8 of 10: 35 % of the tokens, there 38 %
STEPS = {"drafter": 100, "refiner": 500}  # 5 % and 25 % of the plain training's
RATES = {"drafter": (1e-4, 0.08), "refiner": (5e-4, 0.0)}  # learning rate and decay; the paper's rates are for batches of 1024


class Drafter:
    """Cross-entropy on the scales that it will draft, the others left out."""

    def __init__(self, drafted: int, steps: int, batch: int = 32) -> None:
        self.name, self.steps, self.tokens, self.taught = f"drafter_{drafted}", steps, SCALES.ends[drafted - 1], Taught(batch)
        self.network = load_var(file("drafter")).requires_grad_(True)
        self.optimisers = [adamw(self.network.parameters(), *RATES["drafter"])]

    def loss(self, step: int, rng: random.Random) -> Tensor:
        classes, shown, words = self.taught.draw(rng)
        logits = self.network(classes, shown[:, : self.tokens - 1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), words[:, : self.tokens].flatten())

    def finish(self, about: dict[str, str]) -> None:
        export(file(self.name), self.network, about)


class Refiner:
    """KL to the teacher's words: on the drafted scales with a weight that falls from 1 to 0, on its own scales with 1."""

    def __init__(self, drafted: int, steps: int, batch: int = 32) -> None:
        self.name, self.steps, self.tokens, self.taught = f"refiner_{drafted}", steps, SCALES.ends[drafted - 1], Taught(batch)
        self.network, self.teacher = load_var(file("refiner")).requires_grad_(True), load_var(file("drafter"))
        self.optimisers = [adamw(self.network.parameters(), *RATES["refiner"])]

    def loss(self, step: int, rng: random.Random) -> Tensor:
        classes, shown, _ = self.taught.draw(rng)
        with torch.no_grad():
            goal = self.teacher(classes, shown).log_softmax(-1)
        own = self.network(classes, shown).log_softmax(-1)
        with bfloat16(False):
            apart = (own.exp() * (own - goal)).sum(-1)  # KL(refiner || teacher), [B, L]
        weight = torch.ones(SCALES.tokens)
        weight[: self.tokens] = 1 - step / self.steps
        return (apart * weight).sum(-1).mean() / SCALES.tokens

    def finish(self, about: dict[str, str]) -> None:
        export(file(self.name), self.network, about)


TASKS: dict[str, type[Drafter] | type[Refiner]] = {"drafter": Drafter, "refiner": Refiner}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo.var.specialise", description=__doc__)
    parser.add_argument("name", choices=TASKS)
    parser.add_argument("--drafted", type=int, default=DRAFTED, metavar="N", help=f"scales that the drafter makes (default {DRAFTED})")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--every", type=int, default=100, help="steps between saves")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train(TASKS[options.name](options.drafted, options.steps or STEPS[options.name]), options.seed, options.every)
