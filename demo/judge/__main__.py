"""Trains the judge and reports its hits on pictures it never saw: `python -m demo.judge`. Seeded, and resumes."""

import argparse
import json
import math
import random
from collections.abc import Iterator

import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm import tqdm

from .. import codec
from ..train import STATE, write
from ..world import FRAMES, Scene, draw_scene, render
from .network import FILE, UNREAD, Judge, targets
from .reading import agreement, as_pictures, load

STILLS, CLIPS = 64, 16  # of a batch; a clip gives its first and its last frame
RATE, DECAY, GRAIN = 2e-3, 0.02, 0.04
HELD_OUT = 1 << 40  # seed of the held-out renders, out of reach of a training's


def batch(rng: random.Random, stills: int, clips: int) -> tuple[Tensor, list[Scene]]:
    """Draw frames [stills + 2 * clips, 1, 64, 64, 3] and their scenes; a clip gives its first and its last frame."""
    still = [draw_scene(rng) for _ in range(stills)]
    clip = [draw_scene(rng, moving=True) for _ in range(clips)]
    frames = [render(still, rng)] if still else []
    if clip:
        moving = render(clip, rng, FRAMES)
        frames += [moving[:, :1], moving[:, -1:]]
    return torch.cat(frames), [*still, *clip, *(scene.after() for scene in clip)]


def through_codec(frames: Tensor) -> Tensor:
    """Keep of frames [N, 1, H, W, 3] what the latent codec keeps."""
    return codec.decode(codec.encode(frames))


class Trainer:
    """The judge, its optimiser and the step reached."""

    def __init__(self, steps: int, seed: int) -> None:
        """Begin at step 0; the learning rate falls to 0 at `steps`."""
        torch.manual_seed(seed)
        self.steps, self.seed, self.done = steps, seed, 0
        self.judge = Judge()
        self.optimiser = torch.optim.AdamW(self.judge.parameters(), lr=RATE, weight_decay=DECAY)

    def step(self) -> float:
        """Take one optimiser step and return the loss. Its data depend on seed and step alone."""
        rng = random.Random(self.seed * 1_000_003 + self.done)
        torch.manual_seed(rng.getrandbits(48))
        frames, scenes = batch(rng, STILLS, CLIPS)
        coded = torch.rand(len(frames)) < 0.5
        frames[coded] = through_codec(frames[coded])
        grain = GRAIN * torch.rand(len(frames), 1, 1, 1, 1)  # so that a slightly rough sample is still read
        loss = _loss(self.judge(as_pictures(frames + grain * torch.randn_like(frames))), targets(scenes))
        loss.backward()  # type: ignore[no-untyped-call]
        past = self.done / self.steps
        self.optimiser.param_groups[0]["lr"] = RATE * min((self.done + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * past))
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done += 1
        return loss.item()

    def tensors(self) -> dict[str, Tensor]:
        """Collect all that a resumed training needs."""
        found = {f"judge.{name}": value for name, value in self.judge.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        return found

    def resume(self) -> None:
        """Go on from the last saved state."""
        with safe_open(STATE / "judge.safetensors", "pt") as file:
            kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.done = int(file.metadata()["step"])
        self.judge.load_state_dict({k.removeprefix("judge."): v for k, v in kept.items() if k.startswith("judge.")})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in kept.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})


def _loss(logits: dict[str, Tensor], goals: dict[str, Tensor]) -> Tensor:
    read = {name: logits[name].flatten(0, -2) for name in goals}
    losses = [nn.functional.cross_entropy(read[name], goals[name].flatten(), ignore_index=UNREAD) for name in goals]
    return torch.stack(losses).sum()


def held_out(count: int, seed: int = HELD_OUT) -> Iterator[tuple[str, Tensor, list[Scene]]]:
    """Draw `count` stills and `count` clip ends in parts: name, frames [M, 1, H, W, 3] and scenes."""
    rng = random.Random(seed)
    for start in range(0, count, 128):
        size = min(128, count - start)
        yield "stills", *batch(rng, size, 0)
        frames, scenes = batch(rng, 0, size)
        yield "clip ends", frames[size:], scenes[size:]


def examine(judge: Judge, count: int) -> dict[str, dict[str, float]]:
    """Rate hits 0..1 per attribute of held-out stills and clip ends, raw and through the codec."""
    sums: dict[str, dict[str, float]] = {}
    for group, frames, scenes in held_out(count):
        for name, seen in ((group, frames), (f"{group}, through the codec", through_codec(frames))):
            total = sums.setdefault(name, {})
            for attribute, rate in agreement(as_pictures(seen), scenes, judge).items():
                total[attribute] = total.get(attribute, 0.0) + rate * len(scenes) / count
    return sums


def train(steps: int, seed: int, every: int) -> None:
    """Train up to `steps`, saving the state every `every` steps."""
    trainer = Trainer(steps, seed)
    if (STATE / "judge.safetensors").exists():
        trainer.resume()
    bar, mean = tqdm(range(trainer.done, steps), initial=trainer.done, total=steps), 0.0
    for n in bar:
        loss = trainer.step()
        mean = loss if not mean else 0.95 * mean + 0.05 * loss
        bar.set_postfix(loss=f"{mean:.4f}")
        if (n + 1) % every == 0 or n + 1 == steps:
            write(STATE / "judge.safetensors", trainer.tensors(), {"step": str(trainer.done)})
    weights = {k: v.half() if v.is_floating_point() else v for k, v in trainer.judge.state_dict().items()}
    about = {"trained": json.dumps({"step": trainer.done, "of": steps, "seed": seed})}
    write(FILE, weights, about)


def report(count: int) -> None:
    """Print the shipped judge's held-out hit rates and write them into its metadata."""
    rates = examine(load(), count)
    for group, found in rates.items():
        print(f"{group:32}" + "  ".join(f"{name} {100 * rate:.2f} %" for name, rate in found.items()))
    with safe_open(FILE, "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = file.metadata()
    rounded = {group: {name: round(rate, 4) for name, rate in found.items()} for group, found in rates.items()}
    write(FILE, weights, about | {"held_out": json.dumps({"pictures": count, "rates": rounded})})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo.judge", description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--every", type=int, default=100, help="steps between saves")
    parser.add_argument("--pictures", type=int, default=2048, help="held-out stills, and as many clip ends")
    parser.add_argument("--report", action="store_true", help="only examine the weights that are there")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if not options.report:
        train(options.steps, options.seed, options.every)
    report(options.pictures)
