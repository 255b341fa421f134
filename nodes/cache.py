"""The nodes that put a cache on a model."""

from typing import Any

from comfy_api.latest import io

from ..cache_core import Site
from ..cache_core.published import measure
from .adapters.host import attach
from .automatic import Automatic
from .live import listener


def speed_input() -> io.Float.Input:
    """The goal that a mask is chosen for."""
    return io.Float.Input(
        "speed",
        default=2.0,
        min=1.0,
        max=6.0,
        step=0.1,
        tooltip="How many times faster the denoising loop should run, 1.0 to 6.0. 1.0 computes every step and changes nothing, "
        "bit for bit. The faster, the further the picture may move away from the uncached one: compare with Encore Measure and "
        "Encore Report.",
    )


def site_input() -> io.Combo.Input:
    """Before or after guidance."""
    return io.Combo.Input(
        "site",
        options=[Site.GUIDED.value, Site.COND.value],
        default=Site.GUIDED.value,
        optional=True,
        advanced=True,
        tooltip="What is forecast. guided: the result after CFG, the fastest. cond: each condition by itself, so that nodes which "
        "change the guidance at every step (rescaled CFG, APG...) still run.",
    )


def error_input() -> io.Float.Input:
    """Quality as the goal, in place of speed."""
    return io.Float.Input(
        "error",
        default=0.0,
        min=0.0,
        max=0.2,
        step=0.001,
        round=0.0001,
        optional=True,
        advanced=True,
        tooltip="Above 0 this is the goal, and speed is not looked at: as few steps are computed as keep the expected distance from the "
        "uncached latent at this share of its norm. 0.005 is invisible, 0.02 can be seen side by side.",
    )


def guard_input() -> io.Boolean.Input:
    """The closed loop."""
    return io.Boolean.Input(
        "guard",
        default=True,
        optional=True,
        advanced=True,
        tooltip="Every computed step shows how well it could have been forecast. Where that is worse than in 99 of 100 samplings "
        "like the calibration's (three times worse than expected, where it does not know), compute the next step too. Encore Report shows "
        "where it happened.",
    )


class Encore(io.ComfyNode):
    """Samples about `speed` times as fast by TRACE, with the calibration that fits the model best."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreApply",
            display_name="Encore",
            category="encore",
            description="Makes a diffusion transformer sample faster: computes a part of the steps and forecasts the others so that the "
            "sampling comes out where it would have uncached. Works on any model; put it right before the sampler and watch the picture "
            "with Encore Report. Takes a calibration of the model from models/encore if there is one, and the universal one if not.",
            search_aliases=["cache", "speed up", "faster", "teacache", "easycache", "feature caching"],
            inputs=[
                io.Model.Input("model", tooltip="The model to speed up. LoRAs and other patches may come before or after."),
                speed_input(),
                site_input(),
                error_input(),
                guard_input(),
                io.Boolean.Input(
                    "learn",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Learn this model while you work: the next four whole samplings with it by euler, dpmpp_2m, uni_pc or another "
                    "sampler that adds no noise are computed in full and kept in models/encore, and from then on forecasts go by what "
                    "was seen. Once for each number of steps, scheduler and shift. Nothing happens where it is known already.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the cache on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, speed: float, site: str = Site.GUIDED.value, error: float = 0.0, guard: bool = True, learn: bool = False
    ) -> io.NodeOutput:
        choice = Automatic(speed, error, Site(site), guard, learn)
        return io.NodeOutput(attach(model, choice, listener(cls.hidden.unique_id)))


class EncoreMeasure(io.ComfyNode):
    """Computes everything and only records: the uncached side of a comparison."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreMeasure",
            display_name="Encore Measure",
            category="encore",
            description="Changes nothing and measures: seconds and multiply-accumulates of every step, and how well each "
            "step could have been forecast. The uncached side of a before/after comparison.",
            inputs=[io.Model.Input("model", tooltip="The model to measure. Its pictures stay the same, bit for bit.")],
            outputs=[io.Model.Output(display_name="model", tooltip="The same model, measured while it samples.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(attach(model, measure(), listener(cls.hidden.unique_id)))
