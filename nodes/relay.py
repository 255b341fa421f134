"""Encore Relay: a large model makes the first part of the steps, a small one of the same latent space the rest."""

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from .adapters.relay import Course, Leg, run
from .live import show


class EncoreRelay(io.ComfyNode):
    """A sampler that takes two models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreRelay",
            display_name="Encore Relay",
            category="encore",
            description="Samples with two models: a large one from pure noise down to a noise level, where it is offloaded, and from there "
            "a small one of the same latent space: Wan 14B then 1.3B, the two of Wan 2.2, Flux dev then a distilled one.",
            search_aliases=["two models", "high noise", "low noise", "wan 2.2", "collaborative", "KSampler Advanced"],
            inputs=[
                io.Model.Input("model", tooltip="Makes the first steps, which decide what is shown. Encore nodes may come before."),
                io.Model.Input("model_after", tooltip="Makes the other steps. It must share the VAE; the same prompts must fit both."),
                io.Float.Input(
                    "sigma",
                    default=0.875,
                    min=0.0,
                    max=1000.0,
                    step=0.005,
                    round=0.0001,
                    tooltip="Noise level of the hand-over: steps that begin here or above are the first model's. Flux and Wan run from 1 "
                    "to 0. 0.875 is Wan 2.2's for text to video, 0.9 for image to video. Lower: more by the large model.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise that the first model starts from.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps of both together."),
                io.Float.Input("cfg", default=3.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Guidance of the first model."),
                io.Float.Input("cfg_after", default=3.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Of the second; distilled: 1."),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip="For both."),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="simple",
                    tooltip="Noise levels of the steps, made of the first model's sampling settings (shift) and taken over by the second.",
                ),
                io.Conditioning.Input("positive", tooltip="What to paint."),
                io.Conditioning.Input("negative", tooltip="What not to; unused where cfg is 1."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size to paint."),
                io.Conditioning.Input("positive_after", optional=True, tooltip="Another prompt for the second model. Empty: the same."),
                io.Conditioning.Input("negative_after", optional=True, tooltip="Another negative for the second model. Empty: the same."),
            ],
            outputs=[io.Latent.Output(tooltip="Denoised. Encore Report shows the steps of both models.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        prompts = {name: given[name] for name in ("positive", "negative")}
        after = {name: value if given.get(f"{name}_after") is None else given[f"{name}_after"] for name, value in prompts.items()}
        first, second = Leg(given["model"], cfg=given["cfg"], **prompts), Leg(given["model_after"], cfg=given["cfg_after"], **after)
        course = Course(given["seed"], given["steps"], given["sampler_name"], given["scheduler"], given["sigma"])
        latent, ledger = run(first, second, course, given["latent_image"])
        show(cls.hidden.unique_id, ledger)
        return io.NodeOutput(latent)
