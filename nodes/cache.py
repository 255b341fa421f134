"""The nodes that put a cache on a model."""

from typing import Any

from comfy_api.latest import io

from ..cache_core import Site
from ..cache_core.published import encore, measure
from .adapters.families import family_of
from .adapters.host import attach
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


class Encore(io.ComfyNode):
    """Samples about `speed` times as fast: a published mask says which steps are computed, the others are forecast."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreApply",
            display_name="Encore",
            category="encore",
            description="Makes a diffusion transformer sample faster: computes a part of the steps and forecasts the others "
            "from them. Works on any model; put it right before the sampler and watch the picture with Encore Report.",
            search_aliases=["cache", "speed up", "faster", "teacache", "easycache", "feature caching"],
            inputs=[
                io.Model.Input("model", tooltip="The model to speed up. LoRAs and other patches may come before or after."),
                speed_input(),
                site_input(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the cache on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, speed: float, site: str = Site.GUIDED.value) -> io.NodeOutput:
        recipe = encore(speed, family_of(model), Site(site))
        return io.NodeOutput(attach(model, recipe, listener(cls.hidden.unique_id)))


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
