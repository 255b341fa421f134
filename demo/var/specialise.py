"""Specialises the demo VARs to their halves of CoDe (arXiv 2411.17787): `python -m demo.var.specialise drafter_5` or `refiner_5`."""

import random
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cache_core.var.load import load_var

from .training import Task, Tasks, adamw, bfloat16, command, export
from .transformers import SCALES, Taught, file

DRAFTED = 5  # scales of 7 that ship: as far down the pyramid as the paper's 8 of 10, 35 % of the tokens, there 38 %
STEPS = {"drafter": 90, "refiner": 600}  # 5 % of the plain training's; the paper gives its refiner 25 %
RATES = {"drafter": (1e-5, 0.08), "refiner": (5e-5, 0.0)}  # learning rate and decay; the paper's rates are for batches of 1024


class Drafter:
    """Cross-entropy on the scales that it will draft, the others left out."""

    def __init__(self, drafted: int, steps: int, seed: int, batch: int = 16) -> None:
        torch.manual_seed(seed)
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

    def __init__(self, drafted: int, steps: int, seed: int, batch: int = 16) -> None:
        torch.manual_seed(seed)
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


def _tasks(drafted: int) -> dict[str, tuple[Callable[[int, int], Task], int]]:
    plain, small = partial(Drafter, drafted), partial(Refiner, drafted)
    return {f"drafter_{drafted}": (plain, STEPS["drafter"]), f"refiner_{drafted}": (small, STEPS["refiner"])}


TASKS: Tasks = {name: task for drafted in range(1, len(SCALES)) for name, task in _tasks(drafted).items()}

if __name__ == "__main__":
    command("demo.var.specialise", __doc__, TASKS)
