"""Encore Align (fit) and Encore Align (train): the scale-shift alignment, in closed form and as published."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ...cache_core.blockcache import Alignment, BlockSchedule, Rollouts, Training
from ...cache_core.blockcache.schedule import load as load_schedule
from ...cache_core.blockcache.train import RATE
from ...cache_core.blockcache.weigh import TRIALS
from ..adapters.blockcache import check, student, weighed
from ..adapters.calibrate import Sampling, about, fingerprint
from ..adapters.lessons import Lesson
from .cache import ALIGNMENT
from .files import place_for
from .plots import loss_plot
from .profile import CATEGORY, device_input, placement_of, sampling_inputs, source_inputs
from .schedule import SCHEDULE, chosen, saved_input

STEPS = "Steps of each roll-out: those of the schedule."
NAME = "Name of the file in models/encore/blockcache/alignments. One of that name is replaced."


class _Align(io.ComfyNode):
    """What both nodes have in common: roll-outs of the student in which a pupil learns."""

    node_id: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    default_name: ClassVar[str]

    @classmethod
    def own(cls) -> list[Any]:
        """The node's own inputs."""
        raise NotImplementedError

    @classmethod
    def outputs(cls) -> list[Any]:
        """The node's outputs."""
        return [
            ALIGNMENT.Output(display_name="alignment", tooltip="For Encore Block Cache."),
            io.String.Output(display_name="summary", tooltip="How long it took and what was learned."),
        ]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.node_id,
            display_name=cls.title,
            category=CATEGORY,
            description=cls.summary,
            is_output_node=True,
            search_aliases=["block caching", "align", "scale shift", "cache me if you can"],
            inputs=[
                *source_inputs(),
                SCHEDULE.Input("schedule", optional=True, tooltip="The schedule to align for. Not needed where a file is chosen."),
                saved_input("schedules", "Encore Block Schedule"),
                *cls.own(),
                *sampling_inputs(STEPS),
                device_input(),
                io.String.Input("name", default=cls.default_name, tooltip=NAME),
            ],
            outputs=cls.outputs(),
        )


class EncoreBlockAlignFit(_Align):
    """The closed form."""

    node_id, title, default_name = "EncoreBlockAlignFit", "Encore Align (fit)", "my-model-fit"
    summary = (
        "Block Caching's alignment in closed form, ours: a few roll-outs of the cached model, beside it the uncached one, and a ridge fit "
        "of scale and shift for each block and step. Minutes instead of hours."
    )

    @classmethod
    def own(cls) -> list[Any]:
        words = (
            "Samplings to learn from, 1 to 64, each as long as a cached and an uncached one together. A batch in the latent gives several "
            f"at once, and up to {TRIALS} samplings more then weigh its parts; of a single one they tell only whether it helps."
        )
        return [io.Int.Input("rollouts", default=8, min=1, max=64, tooltip=words)]

    @classmethod
    def execute(cls, schedule: Any = None, *, file: str, rollouts: int, seed: int, device: str, name: str, **given: Any) -> io.NodeOutput:
        path, known = place_for("alignments", name), chosen(file, schedule, "schedules", load_schedule)
        sampling, pupil, began = sampling_of(given), Rollouts(), time.perf_counter()
        taught = student(sampling.model, known, Lesson(pupil, known.cached), placement_of(device))
        bar = comfy.utils.ProgressBar((rollouts + TRIALS) * sampling.steps)
        for number in range(rollouts):
            sampling.run(taught, seed + number, number, bar)
        found = _weighed(sampling, known, pupil.alignment(name, known.digest, {}), seed, rollouts, device, bar)
        found = replace(found, about={**told(sampling, rollouts, time.perf_counter() - began), **found.about})
        found.save(path)
        summary = words(found)
        return io.NodeOutput(found, summary, ui={"text": [summary]})


class EncoreBlockAlignTrain(_Align):
    """The published training."""

    node_id, title, default_name = "EncoreBlockAlignTrain", "Encore Align (train)", "my-model-train"
    summary = (
        "Block Caching's alignment trained as published: the cached model rolls out from noise, the uncached one is its teacher at the "
        "same states, and nothing but scale and shift is trained. A stopped training goes on from where it was."
    )

    @classmethod
    def own(cls) -> list[Any]:
        return [
            io.Int.Input(
                "iterations",
                default=200,
                min=1,
                max=100_000,
                tooltip="Roll-outs in all, each some five samplings long and followed by a step of the optimiser. The paper has 15,000. "
                "With the name of a training that has as many already, nothing is added.",
            ),
            io.Float.Input(
                "learning_rate", default=RATE, min=1e-7, max=1e-1, step=1e-6, round=False, tooltip="Of Adam. Lower it if the loss rises."
            ),
            io.Boolean.Input(
                "checkpointing",
                default=True,
                advanced=True,
                tooltip="Keep each block's input only and compute the block again in the backward pass: slower, a fraction of the memory.",
            ),
        ]

    @classmethod
    def outputs(cls) -> list[Any]:
        return [*super().outputs(), io.Image.Output(display_name="loss", tooltip="The loss over all steps of the optimiser.")]

    @classmethod
    def execute(
        cls, schedule: Any = None, *, file: str, iterations: int, learning_rate: float, checkpointing: bool, name: str, **given: Any
    ) -> io.NodeOutput:
        path, known = place_for("alignments", name), chosen(file, schedule, "schedules", load_schedule)
        seed, device, sampling = given.pop("seed"), given.pop("device"), sampling_of(given)
        check(sampling.model, known)
        state = path.with_suffix(".training")
        with torch.inference_mode(False):
            pupil = Training(known.cached, learning_rate, schedule=known.digest, model=fingerprint(sampling.model))
            if state.exists():
                pupil.load(state)
            taught = student(sampling.model, known, Lesson(pupil, known.cached, checkpointing), placement_of(device))
            bar, began = comfy.utils.ProgressBar((max(iterations - pupil.rollouts, 0) + TRIALS) * sampling.steps), time.perf_counter()
            try:
                while pupil.rollouts < iterations:
                    sampling.run(taught, seed + pupil.rollouts, pupil.rollouts, bar)
                    pupil.finish(time.perf_counter() - began)
                    began = time.perf_counter()
            finally:
                pupil.drop()
                pupil.save(state)
            found = pupil.alignment(name, known, told(sampling, pupil.rollouts, pupil.seconds))
        found = _weighed(sampling, known, found, seed, pupil.rollouts, device, bar)
        found.save(path)
        summary = f"{words(found)} Loss {pupil.losses[-1]:.3g} in the last roll-out, {pupil.losses[0]:.3g} in the first."
        return io.NodeOutput(found, summary, loss_plot(pupil.losses, f"{name}: loss"), ui={"text": [summary]})


def _weighed(
    sampling: Sampling, schedule: BlockSchedule, found: Alignment, seed: int, rollouts: int, device: str, bar: comfy.utils.ProgressBar
) -> Alignment:
    """An alignment weighed on the roll-out that comes after those it was learned from."""
    run: Callable[[Any], Tensor] = lambda model: sampling.run(model, seed + rollouts, rollouts, bar)  # noqa: E731
    return weighed(sampling.model, schedule, found, run, placement_of(device))


def sampling_of(given: dict[str, Any]) -> Sampling:
    """The sampling that a node's inputs describe; `seed` and `device` are no part of it."""
    return Sampling(
        latent=given["latent_image"], **{key: value for key, value in given.items() if key not in ("latent_image", "seed", "device")}
    )


def told(sampling: Sampling, rollouts: int, seconds: float) -> dict[str, Any]:
    """What is written into an alignment of where it comes from."""
    return {**about(sampling), "rollouts": rollouts * len(sampling.latent["samples"]), "seconds": round(seconds, 1)}


def words(found: Alignment) -> str:
    """An alignment for people."""
    scale, shift = found.rows.abs().mean((0, 2)).tolist()
    made = found.about
    return (
        f"{found.name}: {found.kind} on {made['rollouts']} roll-outs in {made['seconds']:g} s, {len(found.cells)} cells, "
        f"mean |scale| {scale:.3g}, mean |shift| {shift:.3g}." + weight(made.get("gains", ()))
    )


def weight(gains: Sequence[float]) -> str:
    """What the weighing at the end of whole samplings said, for people."""
    if not gains or set(gains) == {1.0}:
        return ""
    if not any(gains):
        return " It did not help at the end of whole samplings, and is left out."
    return f" Weighed at the end of whole samplings: its {len(gains)} parts count {min(gains):.2g} to {max(gains):.2g} times."
