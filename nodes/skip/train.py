"""Encore Skip Train: continual training with skip branches, in the two stages of the paper."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from ...cache_core import CacheError
from ...cache_core.skip import files
from ...cache_core.skip.branch import branches
from ...cache_core.skip.landscape import Landscape, surveying
from ...cache_core.skip.train import Training
from ..adapters.calibrate import Sampling, fingerprint
from ..adapters.host import attach
from ..adapters.skips import attach_branches, layout_of
from ..adapters.skiptrain import Material, Pupil, learn, pupil, with_lora
from .files import BRANCHES, find, names, place_for
from .plots import landscape_plot, loss_plot

CATEGORY = "encore/skip"
NEW = "new"
SHOWN = 20  # steps of the samplings that the landscape is measured on


class EncoreSkipTrain(io.ComfyNode):
    """Trains branches alone, or branches and LoRAs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreSkipTrain",
            display_name="Encore Skip Train",
            category=CATEGORY,
            description="Trains skip branches on Flux or Wan as Skip-DiT does (arXiv:2411.17616): first the branches alone, then, with a "
            "rank above 0, LoRAs on all blocks besides. The model's own weights stay as they are. A stopped training goes on.",
            is_output_node=True,
            search_aliases=["skip-dit", "train", "lora", "branches"],
            inputs=cls.given(),
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model with the branches on it; the LoRA is a file of its own."),
                io.Image.Output(display_name="loss", tooltip="The loss over all steps."),
                io.Image.Output(
                    display_name="landscape", tooltip="How much features change from step to step, without and with what was trained."
                ),
                io.String.Output(display_name="summary", tooltip="The last losses, and the mean change of features before and after."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def given(cls) -> list[Any]:
        """The node's inputs."""
        return [
            io.Model.Input("model", tooltip="The model to train on, without a cache and without branches."),
            io.Conditioning.Input("positive", tooltip="Captions of the latents: one condition, or one row, for each, in their order."),
            io.Conditioning.Input("negative", tooltip="The negative prompt, for the landscape alone."),
            io.Latent.Input("latents", tooltip="What to learn: a batch of encoded pictures or clips of one size, 2 or more."),
            io.Int.Input(
                "steps",
                default=500,
                min=1,
                max=100_000,
                tooltip="Steps in all. With a training of that name that made as many, none is added.",
            ),
            io.Int.Input("batch", default=4, min=1, max=256, tooltip="Latents a step, drawn from the batch above."),
            io.Float.Input(
                "learning_rate", default=1e-4, min=1e-7, max=1e-1, step=1e-6, round=1e-7, tooltip="Of AdamW; the paper has 1e-4."
            ),
            io.Combo.Input(
                "start",
                options=[NEW, *names(BRANCHES)],
                default=NEW,
                tooltip="What to start from. new: branches that change nothing, for the first stage. A name: those of an earlier training.",
            ),
            io.Int.Input(
                "rank", default=0, min=0, max=256, tooltip="0: branches alone, the first stage. Above: LoRAs of that rank too, the second."
            ),
            io.Boolean.Input(
                "checkpointing",
                default=True,
                tooltip="Keep each block's input alone and compute the block again: less memory, a third slower.",
            ),
            io.Boolean.Input("bfloat16", default=True, tooltip="Products in bfloat16; what is trained stays in float32."),
            io.Int.Input("seed", default=0, min=0, max=2**63, tooltip="Of noise, noise levels and the order of latents."),
            io.String.Input(
                "name",
                default="my-model",
                tooltip="Name of the file in models/encore/skip/branches. One of that name is replaced. A LoRA goes to models/loras under "
                "the same name, and replaces none there but its own.",
            ),
        ]

    @classmethod
    def execute(
        cls, model: Any, latents: dict[str, Any], steps: int, batch: int, learning_rate: float, seed: int, name: str, **given: Any
    ) -> io.NodeOutput:
        material = Material(latents["samples"], given["positive"], given["negative"])
        loras = Path(folder_paths.get_folder_paths("loras")[0]) / f"{name}.safetensors"
        plan = Plan(steps, batch, learning_rate, given["rank"], given["checkpointing"], given["bfloat16"], seed)
        path = place_for(BRANCHES, name)
        losses = train(model, material, plan, given["start"], path, loras)
        with_branches, titles = trained(model, path), ("without branches", f"with branches{' and LoRA' if plan.rank else ''}")
        maps = [survey(each, material, seed) for each in (model, trained(model, path, loras) if plan.rank else with_branches)]
        if plan.rank:  # the host may let go of the survey's clone with its LoRA still in the weights, and train on those next time
            comfy.model_management.unload_all_models()
        summary = words(path.name, losses, maps)
        plots = loss_plot(losses, f"{name}: loss"), landscape_plot(maps[0], maps[1], titles)
        return io.NodeOutput(with_branches, *plots, summary, ui={"text": [summary]})


@dataclass(frozen=True, slots=True)
class Plan:
    """How to train; `rank` 0 is the first stage."""

    steps: int
    batch: int
    rate: float = 1e-4
    rank: int = 0
    checkpointed: bool = True
    half: bool = True
    seed: int = 0


def train(model: Any, material: Material, plan: Plan, start: str, path: Path, lora: Path) -> list[float]:
    """Train branches, and LoRAs if the plan says so, into these files, on from the state beside `path`; all losses so far.

    Raises CacheError, before anything is trained, where the state is of another model or the LoRA would replace a file not its own.
    """
    state, about = path.with_suffix(".training"), fingerprint(model)
    if plan.rank:
        files.claim_lora(lora)
    with torch.inference_mode(False):
        made = _started(model, start)
        taught = pupil(model, made, plan.rank, plan.checkpointed, plan.half, plan.seed)
        training = Training(taught.parts, plan.rate, about)
        if state.exists():
            training.load(state)
        _train(taught, training, material, plan, state)
        training.finish()
    told = {**about, "steps": len(training.losses), "rank": plan.rank}
    files.save(made, path, told)
    if taught.adapters:
        files.save_lora(taught.adapters, lora, told)
    return training.losses


def trained(model: Any, path: Path, lora: Path | None = None) -> Any:
    """A clone of `model` (ModelPatcher) with what `train` wrote: the branches of `path`, and the LoRAs of `lora` if they are wanted."""
    branched = attach_branches(model, files.load(path, comfy.ops.manual_cast)[0])
    return branched if lora is None else with_lora(branched, lora)


def words(name: str, losses: list[float], maps: list[torch.Tensor]) -> str:
    """A training for people; `maps` [blocks, steps - 1] are the landscapes without and with what was trained."""
    tail, means = losses[-50:], [float(found.mean()) for found in maps]
    change = f"features change by {means[0]:.4g} a step without what was trained, {means[1]:.4g} with it"
    return f"{name}: {len(losses)} steps, loss {sum(tail) / len(tail):.4g}; {change}."


def _started(model: Any, start: str) -> Any:
    total, width = layout_of(model.model.diffusion_model)
    made = branches(total, width, added=True) if start == NEW else files.load(_file(start))[0]
    attach_branches(model, made)  # refuses those of another model
    return made


def _file(start: str) -> Path:
    """Branches by name, or a file as it is."""
    return Path(start) if Path(start).suffix else find(BRANCHES, start)


def _train(taught: Pupil, training: Training, material: Material, plan: Plan, state: Path) -> None:
    """Steps up to the number asked for; the state is kept whatever ends them."""
    count = len(material.latents)
    if plan.batch > count:
        raise CacheError(
            f"There are {count} latents, and a batch of {plan.batch} was asked for. Give more latents, or ask for fewer a step."
        )
    bar = comfy.utils.ProgressBar(plan.steps)
    bar.update(len(training.losses))
    try:
        while len(training.losses) < plan.steps:
            number = plan.seed + len(training.losses)
            learn(taught, training, material, random.Random(number).sample(range(count), plan.batch), number)
            bar.update(1)
    finally:
        training.save(state)


def survey(model: Any, material: Material, seed: int) -> torch.Tensor:
    """Changes [blocks, steps - 1] of a model's features on one sampling of the material's first latent's size."""
    into = Landscape()
    _, condition = material.batch([0])
    empty = {"samples": torch.zeros_like(material.latents[:1])}
    sampling = Sampling(model, condition, material.negative, empty, SHOWN, 1.0, "euler", "simple")
    sampling.run(attach(model, surveying(into)), seed, 0, comfy.utils.ProgressBar(SHOWN))
    return into.map()
