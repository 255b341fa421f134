"""What the nodes of all published methods have in common."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from comfy_api.latest import io

from ...cache_core import Placement, Recipe, Site
from ...cache_core.policies import Within
from ..adapters.families import family_of
from ..adapters.host import attach
from ..live import listener

KEPT = 2  # results of a video model's blocks that `auto` keeps on the GPU for each condition


@dataclass(frozen=True, slots=True)
class Choice:
    """The recipe that a node's widgets amount to on a model, and what the report has to say about it."""

    recipe: Recipe
    notes: tuple[str, ...] = ()


class Method(io.ComfyNode):
    """A published method as a node. Its class says it in words, its widgets, and which recipe they amount to.

    `memory` says what is kept where that is large; such a node has the widget `cache_device` besides its own.
    """

    node_id: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    memory: ClassVar[str] = ""
    category: ClassVar[str] = "encore/methods"

    @classmethod
    def widgets(cls) -> list[Any]:
        """The method's own inputs."""
        raise NotImplementedError

    @classmethod
    def choose(cls, model: Any, *args: Any, **widgets: Any) -> Choice:
        """The recipe for `model` (ModelPatcher)."""
        raise NotImplementedError

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.node_id,
            display_name=cls.title,
            category=cls.category,
            description=cls.summary,
            search_aliases=["cache", "speed up", *cls.aliases],
            inputs=[
                io.Model.Input("model", tooltip="The model to speed up. LoRAs and other patches may come before or after."),
                *cls.widgets(),
                *([cache_device(cls.memory)] if cls.memory else []),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the cache on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, cache_device: str = "auto", **widgets: Any) -> io.NodeOutput:
        choice = cls.choose(model, **widgets)
        recipe = replace(choice.recipe, placement=placement(cache_device, choice.recipe, family_of(model)))
        return io.NodeOutput(attach(model, recipe, listener(cls.hidden.unique_id, choice.notes)))


def placement(device: str, recipe: Recipe, family: str) -> Placement:
    """Where `cache_device` keeps results; "auto" is the CPU for what takes gigabytes: many results of a video model's blocks."""
    many = recipe.site is not Site.STACK or recipe.predictor.depth > KEPT
    away = device == "cpu" or (device == "auto" and family == "wan" and recipe.site.inside and many)
    return Placement(torch.device("cpu")) if away else Placement()


def within(recipe: Recipe, start: float, end: float) -> Recipe:
    """`recipe`, reusing only from fraction `start` to `end` of the steps."""
    return replace(recipe, policy=Within(recipe.policy, start, end))


def cache_device(memory: str) -> io.Combo.Input:
    """The widget that says where results are kept."""
    return io.Combo.Input(
        "cache_device",
        options=["auto", "gpu", "cpu"],
        default="auto",
        advanced=True,
        tooltip=f"Where results are kept. Memory: {memory} gpu: beside the model, no copying. cpu: in RAM, slower by one copy for each "
        f"result. auto: gpu, but cpu where a method keeps more than {KEPT} results of a video model.",
    )


def percent(name: str, default: float, which: str) -> io.Float.Input:
    """`start_percent` and its like."""
    return io.Float.Input(
        name,
        default=default,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip=f"{which} of the part of the sampling in which steps may be reused, as a fraction of the sampler's steps, 0.0 to 1.0. "
        "Steps outside are computed. The first steps fix the layout: reusing them changes the picture most.",
    )


def threshold(name: str, default: float, most: float, tooltip: str, least: float = 0.0) -> io.Float.Input:
    """A limit of a measured change or error, in thousandths."""
    return io.Float.Input(name, default=default, min=least, max=most, step=0.001, round=0.0001, tooltip=tooltip)


def whole(name: str, default: int, least: int, most: int, tooltip: str, advanced: bool = False) -> io.Int.Input:
    """A number of steps, blocks or results."""
    return io.Int.Input(name, default=default, min=least, max=most, tooltip=tooltip, advanced=advanced)
