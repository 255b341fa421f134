"""The nodes that join the parts to a recipe, and put a recipe on a model."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from comfy_api.latest import io

from ...cache_core import Placement, Recipe, RecipeError, Site, Target
from ...cache_core.policies import Magnitude
from ...cache_core.predictors import AdamsBashforth, Scaled
from ...cache_core.types import Branch
from ..adapters.families import blocks_of
from ..adapters.host import attach
from ..live import listener
from .base import POLICY, PREDICTOR, RECIPE, Part, whole

WHERE = {
    "guided": "the result after CFG",
    "cond": "each condition by itself",
    "uncond": "the negative prompt's result, rebuilt from the positive's; residual only",
    "stack": "the tokens after a span of blocks",
    "block": "the tokens after each block",
    "branch": "the attention and MLP outputs of each block, which take gigabytes on large models",
}
VELOCITIES = (Site.GUIDED, Site.COND), Target.OUTPUT, "adds up velocities over Euler's steps"
BLOCKS = (Site.STACK,), Target.RESIDUAL, "goes by curves of the residual of all blocks"
MADE_FOR = {AdamsBashforth: VELOCITIES, Scaled: BLOCKS, Magnitude: BLOCKS}  # parts that mean nothing elsewhere: sites, target, why
SWITCHES = {Branch.ATTENTION: "attention", Branch.CROSS: "cross_attention", Branch.MLP: "mlp"}


class EncoreRecipe(Part):
    """Policy, predictor, site and target as one."""

    node_id, title = "EncoreRecipe", "Encore Recipe"
    summary = "Joins a policy and a predictor to a recipe: when to reuse, what instead, where, and what is kept."
    socket = RECIPE
    output = ("recipe", "To Encore Apply Recipe.")

    @classmethod
    def inputs(cls) -> list[Any]:
        places = "; ".join(f"{site.value}: {WHERE[site.value]}" for site in Site)
        kept = "What is kept. output: what comes out of the site. residual: that minus what went in."
        device = "Where results are kept. gpu: beside the model. cpu: in RAM, slower by one copy for each result, for what takes gigabytes."
        return [
            POLICY.Input("policy", tooltip="When to reuse: a policy, or a guard around one."),
            PREDICTOR.Input("predictor", tooltip="What stands in for a step that is not computed."),
            io.Combo.Input(
                "site",
                options=[site.value for site in Site],
                default=Site.GUIDED.value,
                tooltip=f"Where the cache stands. {places}.",
            ),
            io.Combo.Input("target", options=[target.value for target in Target], default=Target.OUTPUT.value, tooltip=kept),
            whole(
                "head",
                0,
                (0, 200),
                "Blocks at the front that always run, 0 to 200. Only inside the network. The probe first_block needs 1.",
            ),
            whole("tail", 0, (0, 200), "Blocks at the back that always run, 0 to 200. Only inside the network."),
            io.Combo.Input("cache_device", options=["gpu", "cpu"], default="gpu", tooltip=device),
            *(
                io.Boolean.Input(
                    name, default=True, advanced=True, tooltip=f"At the site branch: whether the {branch.value} output is cached."
                )
                for branch, name in SWITCHES.items()
            ),
        ]

    @classmethod
    def build(cls, *, policy: Any, predictor: Any, site: str, target: str, cache_device: str, **rest: Any) -> Recipe:
        _fit((*_parts(policy), *_parts(predictor)), Site(site), Target(target))
        placement = Placement(torch.device("cpu")) if cache_device == "cpu" else Placement()
        branches = frozenset(branch for branch, name in SWITCHES.items() if rest.pop(name))
        return Recipe(policy, predictor, Site(site), Target(target), placement, "composed", "your own", branches=branches, **rest)


def _parts(made: Any) -> Iterator[Any]:
    """A policy or predictor, and all that it goes around."""
    yield made
    for field in fields(made) if is_dataclass(made) else ():
        yield from _parts(getattr(made, field.name))


def _fit(parts: tuple[Any, ...], site: Site, target: Target) -> None:
    """Raise RecipeError for a part that means nothing at the site or for the target."""
    for part in parts:
        sites, kept, why = MADE_FOR.get(type(part), ((site,), target, ""))
        if site not in sites or target is not kept:
            raise RecipeError(
                f"{type(part).__name__} {why}, and the site is {site.value} with target {target.value}. Use the site "
                f"{' or '.join(one.value for one in sites)} and the target {kept.value}, or another part."
            )


class EncoreApplyRecipe(io.ComfyNode):
    """Puts a recipe on a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreApplyRecipe",
            display_name="Encore Apply Recipe",
            category="encore/compose",
            description="Puts a composed recipe on a model, in place of any Encore cache that is there.",
            inputs=[
                io.Model.Input("model", tooltip="The model to speed up. LoRAs and other patches may come before or after."),
                RECIPE.Input("recipe", tooltip="The recipe, from Encore Recipe."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the cache on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, recipe: Recipe) -> io.NodeOutput:
        network = model.model.diffusion_model
        blocks = blocks_of(network) if recipe.site.inside else None
        if blocks is not None:
            recipe.cached(len(blocks.keys(network)))  # refuses a recipe that leaves no block to cache
        return io.NodeOutput(attach(model, recipe, listener(cls.hidden.unique_id)))
