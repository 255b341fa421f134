"""`./encore skip`: branches of the demo models, from scenes that no benchmark reports on."""

import argparse
from dataclasses import replace
from random import Random

from ..cache_core.skip import files
from ..cache_core.skip.fit import Sums, gathering
from ..demo import codec, text
from ..demo.agreement import DEFAULTS, HELD_OUT, conditioning, load_model
from ..demo.var.training import has_bfloat16
from ..demo.world import FRAMES, draw_scene, render
from ..nodes.adapters.calibrate import fingerprint
from ..nodes.adapters.skiptrain import Material
from ..nodes.skip.plots import landscape_plot, loss_plot
from ..nodes.skip.train import NEW, Plan, survey, trained, words
from ..nodes.skip.train import train as continual
from .contest import weights
from .making import draw
from .skip import EVERY, KEEP, SEED
from .teachers import classroom

SCENES = HELD_OUT << 2  # seed of the scenes to learn from


def fit(options: argparse.Namespace) -> int:
    """Fit the branch in closed form; 0."""
    setting, sums = replace(DEFAULTS[options.model], steps=options.steps or 50), Sums()
    course = classroom(options.model, setting, options.batch)
    course.sampled(gathering(sums, max(EVERY), KEEP), setting, HELD_OUT + SEED, lambda prompts: None)
    matrix = sums.solve()
    explained = sums.explained(matrix)
    told = {**fingerprint(course.model), "n": max(EVERY), "blocks": KEEP, "steps": setting.steps, "explained": round(explained, 4)}
    files.save_fitted(matrix, options.file, told)
    print(f"{options.file.name}: takes away {100 * explained:.0f} % of the squared error of a held residual")
    return 0


def train(options: argparse.Namespace) -> int:
    """Train branches, and LoRAs beside them as FILE.lora.safetensors; 0."""
    family, setting = options.model, DEFAULTS[options.model]
    model, rng = load_model(weights(family), setting.shift), Random(SCENES)
    scenes = [draw_scene(rng, family == "wan") for _ in range(options.scenes)]
    latents = codec.encode(render(scenes, rng, FRAMES if family == "wan" else 1))
    table = text.load_table(family)
    told, empty = text.encode(family, scenes, table), text.encode(family, [None], table)
    unit = model.model.latent_format.process_out(latents if family == "wan" else latents[:, :, 0])
    conditions = conditioning(family, told, 1.0), conditioning(family, empty, 1.0)
    material = Material(unit, *conditions)
    plan = Plan(options.steps or 500, options.batch, options.rate, options.rank, options.checkpointed, has_bfloat16())
    start, lora = NEW if options.start is None else str(options.start), options.file.with_suffix(".lora.safetensors")
    losses = continual(model, material, plan, start, options.file, lora)
    maps = [survey(each, material, SEED) for each in (model, trained(model, options.file, lora if options.rank else None))]
    print(words(options.file.name, losses, maps))
    if options.figure:
        draw(landscape_plot(maps[0], maps[1], (f"demo-{family}", f"demo-{family} with branches")), options.figure)
    if options.losses:
        draw(loss_plot(losses, f"{options.file.stem}: loss"), options.losses)
    return 0
