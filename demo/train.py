"""Trains the demo models: `python -m demo.train flux` or `wan`. Seeded, and resumes where it was stopped."""

import argparse
import contextlib
import copy
import json
import math
import os
import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from . import codec, text
from .models import positions
from .muon import Muon
from .world import FRAMES, Scene, draw_scene, render

COARSE = ".txt_"  # Flux's text stream sees three tokens; in float8 the file stays under 16 MiB
STATE = Path(__file__).parents[1] / ".train"  # optimiser state, not part of the repository


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is trained. A step sees `batch` single frames or `clips` clips; the clips' share grows from 0 to 1."""

    family: str
    steps: int
    batch: int
    clips: int = 0
    ramp: tuple[float, float] = (1.0, 2.0)  # fractions of the steps where clips begin and where stills end
    guided_from: float = 1.0  # fraction of the steps after which guidance is distilled into the guidance embedding
    lr: float = 1e-3
    shift: float = 3.0
    dropout: float = 0.1
    ema: float = 0.997


PLANS = {
    "flux": Plan("flux", steps=2300, batch=48, guided_from=0.8),
    "wan": Plan("wan", steps=4000, batch=32, clips=12, ramp=(0.76, 0.94)),
}


class Trainer:
    """A network, its average, its optimisers and the step reached."""

    def __init__(self, plan: Plan, seed: int, half: bool = False) -> None:
        from .models import build

        torch.manual_seed(seed)
        self.plan, self.seed, self.half, self.done = plan, seed, half, 0
        self.network = build(plan.family)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in self.network.named_parameters():
            # Wan's text embedding is 4096 wide: a step of AdamW would move its outputs by whole units and kill them.
            inner = ("blocks." in name or "text_embedding" in name) and parameter.ndim == 2 and "mod" not in name
            (matrices if inner else others).append(parameter)
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=plan.lr),
            torch.optim.AdamW(others, lr=plan.lr, betas=(0.9, 0.95), weight_decay=0.01),
        ]
        self.table = text.make_table(text.WIDTH[plan.family]).bfloat16().float()

    def step(self) -> float:
        """One optimiser step; returns the loss. Its data depend on seed and step alone."""
        plan = self.plan
        rng = random.Random(self.seed * 1_000_003 + self.done)
        torch.manual_seed(rng.getrandbits(48))
        start, end = plan.ramp
        frames = FRAMES if rng.random() < (self.done / plan.steps - start) / (end - start) else 1
        count = plan.batch if frames == 1 else plan.clips
        scenes = [draw_scene(rng, plan.family == "wan") for _ in range(count)]
        latent = codec.encode(render(scenes, rng, frames))
        told: list[Scene | None] = [None if rng.random() < plan.dropout else scene for scene in scenes]
        with self._precision(), _snapshots() if plan.family == "flux" else contextlib.nullcontext():
            loss = self._loss(latent, text.encode(plan.family, told, self.table), [scene is None for scene in told])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        rate = plan.lr * min(1.0, (self.done + 1) / 50, 2 * (1 - self.done / plan.steps))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            with self._precision():
                optimiser.step()
            optimiser.zero_grad()
        self.done += 1
        keep = min(plan.ema, self.done / (self.done + 9))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1 - keep)
        return loss.item()

    def _precision(self) -> torch.autocast:
        """Products in bfloat16 if `half`; sums, norms and parameters stay in float32."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)

    def _loss(self, latent: Tensor, context: Tensor, empty: list[bool]) -> Tensor:
        """Rectified flow: the velocity from data to noise at a random sigma."""
        count = len(latent)
        odds = torch.randn(count).exp() * self.plan.shift
        sigma = odds / (1 + odds)
        noise = torch.randn_like(latent)
        level = sigma[:, None, None, None, None]
        noisy, goal = latent + level * (noise - latent), noise - latent
        guidance = torch.ones(count)
        if self.done >= self.plan.guided_from * self.plan.steps:
            guidance = torch.where(torch.rand(count) < 0.75, 1 + 3 * torch.rand(count), guidance)
            with torch.no_grad():
                one, none = torch.ones(count), torch.zeros_like(context)
                apart = predict(self.average, noisy, sigma, context, one) - predict(self.average, noisy, sigma, none, one)
            strength = (guidance - 1) * ~torch.tensor(empty)
            goal = goal + strength[:, None, None, None, None] * apart
        return (predict(self.network, noisy, sigma, context, guidance).float() - goal).square().mean()

    def tensors(self) -> dict[str, Tensor]:
        """All that a resumed training needs."""
        found = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for n, optimiser in enumerate(self.optimisers):
            for index, state in optimiser.state_dict()["state"].items():
                found |= {f"optimiser.{n}.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        return found

    def load(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.done = int(file.metadata()["step"])
        for part, module in (("network", self.network), ("average", self.average)):
            module.load_state_dict({k.removeprefix(f"{part}."): v for k, v in kept.items() if k.startswith(f"{part}.")})
        for n, optimiser in enumerate(self.optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in kept.items():
                if key.startswith(f"optimiser.{n}."):
                    _, _, index, name = key.split(".")
                    state.setdefault(int(index), {})[name] = value
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def predict(network: nn.Module, noisy: Tensor, sigma: Tensor, context: Tensor, guidance: Tensor) -> Tensor:
    """Velocity [N, 16, F, H, W] by either of the host's networks; stills of Flux have one frame."""
    if type(network).__name__ == "Flux":
        y: Tensor = network(noisy[:, :, 0], sigma, context, context.mean(1), guidance)
        return y[:, :, None]
    count, _, frames, height, width = noisy.shape
    where = positions(frames, height, width).expand(count, -1, -1, -1, -1)
    out: Tensor = network(torch.cat([noisy, where], 1), sigma * 1000, context)
    return out


def _snapshots() -> contextlib.AbstractContextManager[Any]:
    """Lets autograd keep copies of activations, since the host's Flux blocks write into theirs; parameters stay shared."""

    def snapshot(saved: Tensor) -> Tensor:
        owner = saved if saved._base is None else saved._base
        return saved if owner.is_leaf and owner.requires_grad else saved.detach().clone()

    return torch.autograd.graph.saved_tensors_hooks(snapshot, lambda kept: kept)


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, part, metadata)
    os.replace(part, path)


def train(plan: Plan, seed: int, every: int, half: bool) -> None:
    """Train to the plan's end from the state reached, saving state and weights `every` so many steps."""
    trainer, state = Trainer(plan, seed, half), STATE / f"{plan.family}.safetensors"
    if state.exists():
        trainer.load(state)
    bar, mean = tqdm(range(trainer.done, plan.steps), initial=trainer.done, total=plan.steps), 0.0
    for n in bar:
        loss = trainer.step()
        mean = loss if not mean else 0.98 * mean + 0.02 * loss
        bar.set_postfix(loss=f"{mean:.4f}")
        if (n + 1) % every == 0 or n + 1 == plan.steps:
            if not math.isfinite(mean):
                raise FloatingPointError(f"The loss of {plan.family} is {mean} at step {n + 1}; the last good state is kept.")
            write(state, trainer.tensors(), {"step": str(trainer.done)})
            export(trainer)


def export(trainer: Trainer) -> None:
    """Write the average as the weight file that ships: bfloat16, and float8 where `COARSE` says."""
    from .models import WEIGHTS

    about = {"family": trainer.plan.family, "step": trainer.done, "of": trainer.plan.steps, "seed": trainer.seed}
    weights = {
        name: value.to(torch.float8_e4m3fn if COARSE in name else torch.bfloat16) for name, value in trainer.average.state_dict().items()
    }
    write(WEIGHTS / f"demo-{trainer.plan.family}.safetensors", weights, {"trained": json.dumps(about)})


def warm(family: str) -> None:
    """Make a state to resume from out of the shipped weights, at the step that they were written; the optimisers start anew."""
    from .models import WEIGHTS

    with safe_open(WEIGHTS / f"demo-{family}.safetensors", "pt") as file:
        kept = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        step = json.loads(file.metadata()["trained"])["step"]
    both = {f"{part}.{key}": value.clone() for part in ("network", "average") for key, value in kept.items()}
    write(STATE / f"{family}.safetensors", both, {"step": str(step)})


def host_ready_for_training(path: str | None) -> Any:
    """Puts a ComfyUI checkout on the path and sets its networks to their differentiable forms."""
    if path:
        sys.path.append(path)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import comfy.model_management

    comfy.model_management.in_training = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=PLANS)
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH"), help="folder of a ComfyUI")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="steps between saves")
    parser.add_argument("--export", action="store_true", help="only write the weight file from the state reached")
    parser.add_argument("--warm", action="store_true", help="first make the state to resume from out of the shipped weights")
    parser.add_argument("--steps", type=int, help="other than the plan's number of steps")
    parser.add_argument("--ramp", type=float, nargs=2, help="other than the plan's fractions of the steps where clips begin and stills end")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16: twice as fast on a CPU with avx512_bf16 or amx")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    host_ready_for_training(options.comfyui)
    plan = PLANS[options.family]
    plan = replace(plan, steps=options.steps or plan.steps, ramp=tuple(options.ramp or plan.ramp))
    if options.warm:
        warm(options.family)
    if options.export:
        trainer = Trainer(plan, options.seed)
        trainer.load(STATE / f"{options.family}.safetensors")
        export(trainer)
    else:
        train(plan, options.seed, options.every, options.bf16)
