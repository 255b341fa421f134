"""How much of its prompts a demo model draws, sampled uncached by the host: `python -m demo.agreement flux|wan`."""

import argparse
import copy
import json
import os
import random
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image, ImageDraw
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from . import codec, judge, text
from .models import WEIGHTS, positions
from .world import FRAMES, SIDE, Scene, caption, draw_scene, render

HELD_OUT = 1 << 41  # seed of the prompts, out of reach of the trainings'
SHEET = 24  # pictures or clips on a contact sheet


@dataclass(frozen=True, slots=True)
class Setting:
    """How to sample. `cfg` 1 leaves the empty prompt out, `guidance` is Flux's own, `shift` None the host's default.

    `side` are pixels of a picture's side; the demo models learned from SIDE.
    """

    steps: int = 50
    cfg: float = 1.0
    guidance: float = 1.0
    shift: float | None = None
    sampler: str = "euler"
    scheduler: str = "simple"
    side: int = SIDE


DEFAULTS = {"flux": Setting(guidance=2.5), "wan": Setting(cfg=3.0, shift=3.0)}


def host_ready(path: str | None) -> None:
    """Put a ComfyUI checkout on the path, and on the CPU where there is no CUDA."""
    if path:
        sys.path.append(path)
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()


def load_model(weights: Path, shift: float | None) -> Any:
    """Load a demo model as the host's ModelPatcher, with another sampling shift unless it is None."""
    import comfy.sd

    model = comfy.sd.load_diffusion_model(str(weights))
    if shift is not None:
        sampling = copy.deepcopy(model.get_model_object("model_sampling"))
        sampling.set_parameters(shift=shift)
        model.add_object_patch("model_sampling", sampling)
    return model


def conditioning(family: str, context: Tensor, guidance: float) -> list[Any]:
    """Make the host's CONDITIONING of contexts [N, L, width], one prompt per sample of the batch."""
    if family == "wan":
        from comfy.latent_formats import Wan21

        return [[context, {"concat_latent_image": Wan21().process_out(positions(FRAMES).clone())}]]
    return [[context, {"pooled_output": context.mean(1), "guidance": guidance}]]


def conditions(family: str, scenes: Sequence[Scene], setting: Setting) -> tuple[list[Any], list[Any], Tensor]:
    """What the host samples N scenes with: their prompts, as many empty ones, and an empty latent."""
    side = setting.side // codec.BLOCK
    latent = torch.zeros(len(scenes), 16, *([] if family == "flux" else [FRAMES]), side, side)
    table = text.load_table(family)
    told, empty = text.encode(family, scenes, table), text.encode(family, [None] * len(scenes), table)
    return conditioning(family, told, setting.guidance), conditioning(family, empty, setting.guidance), latent


@torch.inference_mode()
def sample(
    model: Any,
    family: str,
    scenes: Sequence[Scene],
    setting: Setting,
    seed: int,
    progress: Callable[[], object],
) -> Tensor:
    """Sample N scenes together: frames [N, F, 64, 64, 3] in 0..1; `progress` is called after every step."""
    import comfy.sample

    positive, negative, latent = conditions(family, scenes, setting)
    samples = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        setting.steps,
        setting.cfg,
        setting.sampler,
        setting.scheduler,
        positive,
        negative,
        latent,
        callback=lambda *_: progress(),
        disable_pbar=True,
        seed=seed,
    )
    unit = model.model.latent_format.process_in(samples.float().cpu())
    return codec.decode(unit[:, :, None] if family == "flux" else unit)


def sample_all(model: Any, family: str, scenes: Sequence[Scene], setting: Setting, batch: int, seed: int) -> Tensor:
    """Sample all scenes, `batch` at a time: frames [N, F, 64, 64, 3] in 0..1."""
    groups = [scenes[start : start + batch] for start in range(0, len(scenes), batch)]
    with tqdm(total=len(groups) * setting.steps, desc=f"demo-{family}", unit="step") as bar:
        parts = [sample(model, family, group, setting, seed + n, bar.update) for n, group in enumerate(groups)]
    return torch.cat(parts)


def expected(family: str, scenes: Sequence[Scene]) -> dict[str, list[Scene]]:
    """List what judged frames should show: a still itself, a clip's first frame the scene and its last `after()`."""
    if family == "flux":
        return {"still": list(scenes)}
    return {"first": list(scenes), "last": [scene.after() for scene in scenes]}


def judged(frames: Tensor) -> dict[str, Tensor]:
    """Pick the judged pictures [N, 3, 64, 64] of frames [N, F, 64, 64, 3], by the names that `expected` gives."""
    if frames.shape[1] == 1:
        return {"still": judge.as_pictures(frames)}
    return {"first": judge.as_pictures(frames[:, :1]), "last": judge.as_pictures(frames[:, -1:])}


def score(family: str, frames: Tensor, scenes: Sequence[Scene]) -> dict[str, dict[str, float]]:
    """Rate hits 0..1 by judged frame and attribute, and their mean over the judged frames as "all"."""
    goals = expected(family, scenes)
    rates = {name: judge.agreement(pictures, goals[name]) for name, pictures in judged(frames).items()}
    overall = {key: sum(found[key] for found in rates.values()) / len(rates) for key in next(iter(rates.values()))}
    return rates | {"all": overall}


def distance(family: str, frames: Tensor, seed: int = HELD_OUT + 1) -> float:
    """Measure the Frechet distance of the judged pictures from as many fresh renders that went through the codec."""
    rng = random.Random(seed)
    scenes = [draw_scene(rng, family == "wan") for _ in frames]
    fresh = codec.decode(codec.encode(render(scenes, rng, frames.shape[1])))
    ours, theirs = (judge.features(torch.cat(list(judged(part).values()))) for part in (frames, fresh))
    return judge.frechet(ours, theirs)


def sheet(family: str, frames: Tensor, scenes: Sequence[Scene], zoom: int = 3) -> Image.Image:
    """Draw the first SHEET samples with their captions and, in red, what the judge misses."""
    side, line, note = SIDE * zoom, 14, 76
    columns = 6 if frames.shape[1] == 1 else 2
    goals, seen = expected(family, scenes), {k: judge.read(v[:SHEET]) for k, v in judged(frames).items()}
    count = min(SHEET, len(frames))
    width, height = side * frames.shape[1] + 8, side + note
    page = Image.new("RGB", (width * min(columns, count), height * -(-count // columns)), "white")
    pen = ImageDraw.Draw(page)
    for n in range(count):
        left, top = n % columns * width, n // columns * height
        strip = rearrange(frames[n], "f h w c -> h (f w) c").mul(255).round().byte().numpy()
        tile = Image.fromarray(strip)
        page.paste(tile.resize((tile.width * zoom, tile.height * zoom), Image.Resampling.NEAREST), (left, top))
        wrong = [f"{name}: {miss}" for name in seen for miss in judge.misses(seen[name][n], goals[name][n])]
        lines = textwrap.wrap(caption(scenes[n], moving=family == "wan"), width // 6)[:4]
        pen.text((left + 2, top + side + 1), "\n".join(lines), "black", font_size=10)
        pen.text((left + 2, top + side + 1 + line * len(lines)), ", ".join(wrong)[: width // 6], "red", font_size=10)
    return page


def main(options: argparse.Namespace) -> None:
    """Sample, judge, print a table, and write what was asked for."""
    family, changed = options.family, {"steps": options.steps, "cfg": options.cfg, "guidance": options.guidance}
    changed |= {"shift": options.shift, "sampler": options.sampler, "scheduler": options.scheduler}
    setting = replace(DEFAULTS[family], **{key: value for key, value in changed.items() if value is not None})
    host_ready(options.comfyui)
    rng = random.Random(HELD_OUT + options.seed)
    scenes = [draw_scene(rng, family == "wan") for _ in range(options.prompts)]
    weights = options.weights or WEIGHTS / f"demo-{family}.safetensors"
    model, began = load_model(weights, setting.shift), time.perf_counter()
    frames = sample_all(model, family, scenes, setting, options.batch, options.seed)
    seconds = time.perf_counter() - began
    rates, far = score(family, frames, scenes), distance(family, frames)
    with safe_open(weights, "pt") as file:
        trained = json.loads(file.metadata()["trained"])
    print(f"demo-{family}, step {trained['step']} of {trained['of']}; {options.prompts} prompts in {seconds:.0f} s")
    print(setting)
    print(f"{'':8}" + "".join(f"{name:>12}" for name in rates["all"]))
    for name, found in rates.items():
        print(f"{name:8}" + "".join(f"{100 * rate:>10.1f} %" for rate in found.values()))
    print(f"Frechet distance from fresh renders: {far:.2f}")
    result = {"model": f"demo-{family}", "trained": trained, "prompts": options.prompts, "setting": asdict(setting)}
    result |= {"rates": rates, "frechet": far, "seconds": seconds}
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.sheet:
        sheet(family, frames, scenes).save(options.sheet)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo.agreement", description=__doc__)
    parser.add_argument("family", choices=DEFAULTS)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="another file than the shipped one")
    parser.add_argument("--prompts", type=int, default=256, help="held-out scenes to sample")
    parser.add_argument("--steps", type=int, help="sampling steps (default 50)")
    parser.add_argument("--cfg", type=float, help="classifier-free guidance; 1 is none")
    parser.add_argument("--guidance", type=float, help="Flux's guidance embedding")
    parser.add_argument("--shift", type=float, help="sampling shift: Flux's mu (1.15), or Wan's factor")
    parser.add_argument("--sampler")
    parser.add_argument("--scheduler")
    parser.add_argument("--batch", type=int, default=16, help="samples at once")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and, with it, the choice of held-out scenes")
    parser.add_argument("--comfyui", default=os.environ.get("COMFYUI_PATH"), help="folder of a ComfyUI")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="write a contact sheet here")
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    main(chosen)
