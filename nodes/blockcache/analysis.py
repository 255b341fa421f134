"""Encore Analysis: what a model's inner representations repeat from step to step."""

import json
from typing import Any

import comfy.utils
from comfy_api.latest import io

from ..adapters.analysis import analysed, samplings
from ..adapters.calibrate import Sampling, about
from .analysis_plot import analysis_plot
from .profile import sampling_inputs, source_inputs


class EncoreAnalysis(io.ComfyNode):
    """Measures redundancy by block, branch, place, channel, frequency and condition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreAnalysis",
            display_name="Encore Analysis",
            category="encore/block caching",
            description="Samples without a cache and shows what the model repeats from step to step: by block, branch, place in the "
            "picture, channel, frequency and condition; how much of it depends on the prompt, and which cheap probe foretells it.",
            is_output_node=True,
            search_aliases=["redundancy", "analysis", "block caching"],
            inputs=[
                *source_inputs(),
                io.Int.Input("trajectories", default=4, min=1, max=64, tooltip="Prompts and seeds, 1 to 64, each sampled thrice at most."),
                *sampling_inputs("Steps of each sampling: as many as you use."),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="All figures on one sheet."),
                io.String.Output(display_name="numbers", tooltip="The figures as JSON."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, latent_image: dict[str, Any], trajectories: int, seed: int, **settings: Any) -> io.NodeOutput:
        sampling = Sampling(model, latent=latent_image, **settings)
        bar = comfy.utils.ProgressBar(trajectories * samplings(model) * sampling.steps)
        shape = sampling.latent["samples"].shape
        found = analysed(
            type(model.model).__name__,
            model,
            shape,
            lambda watched, number: sampling.run(watched, seed + number, number, bar),
            trajectories,
            about(sampling),
        )
        shown = {"text": list(found.notes)} if found.notes else None
        return io.NodeOutput(analysis_plot(found), json.dumps(found.numbers(), indent=1), ui=shown)
