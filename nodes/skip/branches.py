"""Encore Skip Branches and Encore Skip Fit: branches on a model that was trained without them, and the one in closed form."""

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.ops
import comfy.utils
from comfy_api.latest import io

from ...cache_core.skip import files
from ...cache_core.skip.branch import branches
from ...cache_core.skip.fit import Sums, gathering
from ..adapters.calibrate import Sampling, about, fingerprint
from ..adapters.host import attach
from ..adapters.skips import attach_branches, layout_of
from ..blockcache.profile import sampling_inputs, source_inputs
from .files import BRANCHES, FITTED, find, names, place_for

UNTRAINED = "untrained"
CATEGORY = "encore/skip"


class EncoreSkipBranches(io.ComfyNode):
    """Branches from a file on Flux or Wan."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreSkipBranches",
            display_name="Encore Skip Branches",
            category=CATEGORY,
            description="Puts Skip-DiT's long skip branches (arXiv:2411.17616) on Flux or Wan: each deep block also reads the "
            "shallow block "
            "that is its mirror image. Trained ones make deep features smooth, so that Skip-Cache does less harm.",
            search_aliases=["skip-dit", "skip branch", "long skip connections"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the branches were trained on. LoRAs and caches may come before or after."),
                io.Combo.Input(
                    "branches",
                    options=[UNTRAINED, *names(BRANCHES)],
                    default=UNTRAINED,
                    tooltip="untrained: new branches, which change nothing until they are trained. A name: that file of Encore "
                    "Skip Train in "
                    "models/encore/skip/branches, or of the demo models.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the branches on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, branches: str) -> io.NodeOutput:
        return io.NodeOutput(attach_branches(model, *branches_of(model, branches)))


def branches_of(model: Any, name: str) -> tuple[Any, Sequence[str]]:
    """The branches of this name, or new ones for `model`, with layers that follow its device and dtype; notes where they are another's.

    Other LoRAs are none: those that were trained with the branches are on the model beside them.
    """
    if name == UNTRAINED:
        total, width = layout_of(model.model.diffusion_model)
        return branches(total, width, added=True, layers=comfy.ops.manual_cast), ()
    made, told = files.load(find(BRANCHES, name), comfy.ops.manual_cast)
    return made, mismatch(model, f"branches {name!r} were trained", {key: value for key, value in told.items() if key != "patches"})


def mismatch(model: Any, made: str, told: Mapping[str, Any]) -> tuple[str, ...]:
    """A note for the report where what was `made` is told to be of another model than this one (ModelPatcher); none otherwise."""
    other = [key for key, value in fingerprint(model).items() if told.get(key, value) != value]
    return (f"The {made} on another model: it differs in {', '.join(other)}.",) if other else ()


class EncoreSkipFit(io.ComfyNode):
    """A branch for Skip-Cache by ridge regression."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreSkipFit",
            display_name="Encore Skip Fit",
            category=CATEGORY,
            description="Ours: fits a branch for Skip-Cache in closed form on a few uncached samplings, for any model whose blocks Encore "
            "knows. It learns how the middle blocks' residual follows the result of the first ones. Nothing is trained.",
            is_output_node=True,
            search_aliases=["skip-cache", "skip-dit", "calibrate", "ridge"],
            inputs=[
                *source_inputs(),
                io.Int.Input(
                    "n", default=3, min=2, max=16, tooltip="Fitted for one whole step in up to so many, 2 to 16: as in Skip Cache."
                ),
                io.Int.Input("blocks", default=1, min=1, max=28, tooltip="Blocks at each end that always run: as in Skip Cache."),
                io.Int.Input("samplings", default=4, min=1, max=64, tooltip="Uncached samplings to learn from, 1 to 64."),
                *sampling_inputs("Steps of each sampling: as many as you use, since a branch learns how far steps lie apart."),
                io.String.Input(
                    "name", default="my-model", tooltip="Name of the file in models/encore/skip/fitted. One of that name is replaced."
                ),
            ],
            outputs=[
                io.String.Output(display_name="name", tooltip="The name, for Encore Skip Cache."),
                io.String.Output(display_name="summary", tooltip="What the branch explains of what plain reuse lacks."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, latent_image: dict[str, Any], n: int, blocks: int, samplings: int, seed: int, name: str, **settings: Any
    ) -> io.NodeOutput:
        path, sampling = place_for(FITTED, name), Sampling(model, latent=latent_image, **settings)
        sums, bar = Sums(), comfy.utils.ProgressBar(samplings * sampling.steps)
        for number in range(samplings):
            sampling.run(attach(model, gathering(sums, n, blocks)), seed + number, number, bar)
        matrix = sums.solve()
        told = {**about(sampling), "steps": sampling.steps, "n": n, "blocks": blocks, "explained": round(sums.explained(matrix), 4)}
        files.save_fitted(matrix, path, told)
        summary = f"{path.name}: takes away {100 * told['explained']:.0f} % of the squared error of a held residual on "
        f"{samplings} samplings."
        return io.NodeOutput(name, summary, ui={"text": [summary]})
