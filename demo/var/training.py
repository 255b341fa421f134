"""The loop that all trainings of the demo VARs share: seeded, in bfloat16 products, resumed where it was stopped."""

import argparse
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from ..muon import Muon
from ..train import STATE, write

WARM = 50  # steps in which the learning rate rises
SEED = 7


class Task(Protocol):
    """What is trained. `loss` may depend on the step and on what it draws from `rng`, nothing else."""

    name: str
    steps: int
    network: nn.Module
    optimisers: list[torch.optim.Optimizer]

    def loss(self, step: int, rng: random.Random) -> Tensor: ...
    def finish(self, about: dict[str, str]) -> None: ...


Tasks = Mapping[str, tuple[Callable[[int, int], Task], int]]  # by name: what makes a task of so many steps with a seed, and the steps


def adamw(parameters: Iterable[nn.Parameter], rate: float, decay: float = 0.01) -> torch.optim.Optimizer:
    """AdamW as VAR trains: betas 0.9 and 0.95."""
    return torch.optim.AdamW(list(parameters), lr=rate, betas=(0.9, 0.95), weight_decay=decay)


def muon_and_adamw(network: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        inner = "blocks." in name and parameter.ndim == 2 and "ada_lin" not in name
        (matrices if inner else others).append(parameter)
    return [Muon(matrices, rate), adamw(others, rate)]


def has_bfloat16() -> bool:
    """Whether the processor has units for products in bfloat16; without, they are slower than in float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def bfloat16(enabled: bool = True) -> torch.autocast:
    """Products in bfloat16 where the processor has units for them; sums, norms and parameters stay in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and has_bfloat16())


def train(task: Task, seed: int, every: int) -> None:
    """Train to the end from the state reached, saving the state `every` so many steps; the rate falls to 0 by a cosine."""
    state = STATE / f"var-{task.name}.safetensors"
    done = _load(state, task) if state.exists() else 0
    base = [group["lr"] for optimiser in task.optimisers for group in optimiser.param_groups]
    bar, mean = tqdm(range(done, task.steps), initial=done, total=task.steps, mininterval=5), 0.0
    for step in bar:
        rng = random.Random(seed * 1_000_003 + step)
        torch.manual_seed(rng.getrandbits(48))
        with bfloat16():
            loss = task.loss(step, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.network.parameters(), 1.0)
        share = min((step + 1) / WARM, 0.5 + 0.5 * math.cos(math.pi * step / task.steps))
        groups = [group for optimiser in task.optimisers for group in optimiser.param_groups]
        for group, rate in zip(groups, base, strict=True):
            group["lr"] = rate * share
        for optimiser in task.optimisers:
            with bfloat16():
                optimiser.step()
            optimiser.zero_grad()
        mean = loss.item() if not mean else 0.98 * mean + 0.02 * loss.item()
        bar.set_postfix(loss=f"{mean:.4f}")
        if (step + 1) % every == 0 or step + 1 == task.steps:
            if not math.isfinite(mean):
                raise FloatingPointError(f"The loss of {task.name} is {mean} at step {step + 1}; the last good state is kept.")
            _save(state, task, step + 1)
            task.finish({"trained": json.dumps({"step": step + 1, "of": task.steps, "seed": seed})})


def _save(path: Path, task: Task, done: int) -> None:
    found = {f"network.{name}": value for name, value in task.network.state_dict().items()}
    for n, optimiser in enumerate(task.optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{n}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    write(path, found, {"step": str(done)})


def _load(path: Path, task: Task) -> int:
    with safe_open(path, "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        done = int(file.metadata()["step"])
    task.network.load_state_dict({k.removeprefix("network."): v for k, v in kept.items() if k.startswith("network.")})
    for n, optimiser in enumerate(task.optimisers):
        state: dict[int, dict[str, Any]] = {}
        for key, value in kept.items():
            if key.startswith(f"optimiser.{n}."):
                _, _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return done


def export(path: Path, network: nn.Module, about: dict[str, str]) -> None:
    """Write the weights that ship: bfloat16, and whole numbers as they are."""
    weights = {name: value.bfloat16() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    write(path, weights, about)


def command(prog: str, doc: str | None, tasks: Tasks) -> None:
    """The command line of a training: which task, and how long."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "task", choices=tasks, metavar="TASK", help=", ".join(f"{name} ({steps} steps)" for name, (_, steps) in tasks.items())
    )
    parser.add_argument("--steps", type=int, help="other than the task's number of steps")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--every", type=int, default=50, help="steps between saves (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    make, steps = tasks[options.task]
    train(make(options.steps or steps, options.seed), options.seed, options.every)
