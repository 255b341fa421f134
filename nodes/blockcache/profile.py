"""Encore Block Profile: how much each block changes from step to step."""

from typing import Any

import torch
from comfy_api.latest import io

from ...cache_core import Placement
from ..adapters.blockcache import Measurement, cost, profiled
from ..adapters.calibrate import Sampling
from .files import place_for
from .plots import profile_plot
from .progress import Progress

PROFILE = io.Custom("ENCORE_BLOCK_PROFILE")
CATEGORY = "encore/block caching"


def sampling_inputs(steps: str) -> list[Any]:
    """The inputs of a KSampler, seed first."""
    return [
        io.Int.Input("seed", default=0, min=0, max=2**63, tooltip="Seed of the first sampling; the others count on from it."),
        io.Int.Input("steps", default=50, min=4, max=200, tooltip=steps),
        io.Float.Input("cfg", default=1.0, min=0.0, max=30.0, step=0.1, tooltip="CFG as in your sampler; 1.0 for Flux dev."),
        io.Combo.Input("sampler_name", options=Sampling.samplers(), default="euler", tooltip="A sampler of one evaluation a step: Euler."),
        io.Combo.Input("scheduler", options=Sampling.schedulers(), default="simple", tooltip="As in your sampler."),
    ]


def source_inputs() -> list[Any]:
    """What is sampled."""
    return [
        io.Model.Input("model", tooltip="The model as it goes into your sampler, without a cache."),
        io.Conditioning.Input("positive", tooltip="Prompts of the kind you use. Several conditions in one are taken in turn."),
        io.Conditioning.Input("negative", tooltip="The negative prompt."),
        io.Latent.Input("latent_image", tooltip="An empty latent of the size you use. A batch gives several trajectories at once."),
    ]


def device_input() -> Any:
    """Where residuals are kept."""
    return io.Combo.Input(
        "device",
        options=["gpu", "cpu"],
        default="gpu",
        advanced=True,
        tooltip="Where the residuals of one step are kept. Memory: one for each block and condition, tokens x width x bytes of a value: "
        "FLUX.1 at 1024 x 1024 in bf16 57 of 28 MB, Wan 14B with 81 frames at 480p 40 of 335 MB. gpu: beside the model. cpu: in RAM.",
    )


def placement_of(device: str) -> Placement:
    """Where `device_input` puts residuals."""
    return Placement(torch.device("cpu")) if device == "cpu" else Placement()


class EncoreBlockProfile(io.ComfyNode):
    """Measures Eq 6 of Block Caching on the user's prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreBlockProfile",
            display_name="Encore Block Profile",
            category=CATEGORY,
            description="Block Caching (arXiv:2312.03209), first step: samples without a cache and measures how much the residual of each "
            "transformer block changes from step to step. A schedule is made of it.",
            is_output_node=True,
            search_aliases=["block caching", "profile", "cache me if you can"],
            inputs=[
                *source_inputs(),
                io.Int.Input(
                    "trajectories",
                    default=8,
                    min=1,
                    max=256,
                    tooltip="Samplings, 1 to 256, each as long as one of your pictures. The paper takes 64 (32 prompts, 2 seeds).",
                ),
                *sampling_inputs("Steps of each sampling: as many as you use."),
                io.Boolean.Input(
                    "branches",
                    default=False,
                    tooltip="Also measure each attention and MLP in reach, for the plot and for study. All trajectories are sampled twice.",
                ),
                device_input(),
                io.String.Input("name", default="my-model", tooltip="Name of the file in models/encore/blockcache/profiles."),
            ],
            outputs=[
                PROFILE.Output(display_name="profile", tooltip="For Encore Block Schedule."),
                io.Image.Output(display_name="plot", tooltip="A curve for each block with its spread, and a map of blocks and steps."),
                io.String.Output(display_name="summary", tooltip="What it cost, and how far trajectories differ."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, latent_image: dict[str, Any], trajectories: int, seed: int, branches: bool, device: str, name: str, **settings: Any
    ) -> io.NodeOutput:
        path = place_for("profiles", name)
        sampling, measurement = Sampling(model, latent=latent_image, **settings), Measurement(name, model, branches, placement_of(device))
        latent, total = sampling.start.shape, trajectories * len(measurement.sites) * sampling.steps
        told = cost(measurement, latent, trajectories * latent[0], sampling.steps, sampling.positive, sampling.cfg)
        bar = Progress(cls.hidden.unique_id, "Encore Block Profile", told, total)
        profile = profiled(sampling, measurement, trajectories, seed, bar)
        profile.save(path)
        part = float((profile.spread[:, 1:] / profile.mean[:, 1:].clamp_min(1e-9)).mean())
        summary = " ".join((f"{path.name}: {told}. Spread over trajectories: {100 * part:.0f} % of the mean.", *measurement.notes))
        return io.NodeOutput(profile, profile_plot(profile), summary, ui={"text": [summary]})
