"""Makes all that `demo/weights/var` holds, in order: `python -m demo.var`. Resumes; about 50 minutes of a core."""

import torch

from . import specialise, transformers, vqvae
from .training import SEED, Tasks, train

SHIPPED: list[tuple[Tasks, str]] = [
    (vqvae.TASKS, "quantiser"),
    (vqvae.TASKS, "decoder"),
    (transformers.TASKS, "drafter"),
    (transformers.TASKS, "refiner"),
    (specialise.TASKS, f"drafter_{specialise.DRAFTED}"),
    (specialise.TASKS, f"refiner_{specialise.DRAFTED}"),
]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for tasks, name in SHIPPED:
        make, steps = tasks[name]
        train(make(steps, SEED), SEED, every=50)
