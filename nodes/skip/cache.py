"""Encore Skip Cache: the outer blocks at every step, the middle ones once in n."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...cache_core import CacheError, Ledger
from ...cache_core.predictors import Lagrange, Predictor
from ...cache_core.skip import files
from ...cache_core.skip.cache import Bridged, skip_cache
from ..adapters.choice import Listener
from ..adapters.families import blocks_of, family_of
from ..adapters.host import attach
from ..live import listener
from ..methods.base import Choice, Method, percent, placement, whole
from .branches import mismatch
from .files import FITTED, find, names

LAST, LINE, PARABOLA = "last", "line", "parabola"
CURVES: dict[str, Predictor | None] = {LAST: None, LINE: Lagrange(1), PARABOLA: Lagrange(2)}


class EncoreSkipCache(Method):
    """Skip-Cache."""

    node_id, title, category = "EncoreSkipCache", "Encore Skip Cache", "encore/skip"
    summary = (
        "Skip-Cache (arXiv:2411.17616): one whole step, then n - 1 that run only the first and the last blocks, joined by skip branches. "
        "Made for models with branches; on others it works best with a fitted one."
    )
    aliases = ("skip-cache", "skip-dit", "long skip connections", "fitted branch")
    memory = (
        "results after the middle blocks: 1, of line 2, of parabola 3. Each is of FLUX.1 at 1024 x 1024 in bf16 28 MB, of Wan "
        "14B with 81 frames at 480p 335 MB a condition."
    )

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            whole("n", 2, 1, 100, "One whole step in so many, 1 (all) to 100. Higher is faster and further from the uncached picture."),
            whole(
                "blocks",
                1,
                1,
                28,
                "Blocks at each end that always run, 1 to 28. The paper has 1, its DiT-XL code 4. More is slower and nearer.",
            ),
            percent("start_percent", 0.0, "Start"),
            percent("end_percent", 1.0, "End"),
            io.Combo.Input(
                "forecast",
                options=[*CURVES, *names(FITTED)],
                default=LAST,
                tooltip="What enters the last blocks in place of the middle ones' result. last: that of the last whole step, as published. "
                "line: the line through the last two. parabola: that through the last three. A name: that branch of Encore "
                "Skip Fit mends the last one by the fresh first blocks.",
            ),
            io.Int.Input(
                "deep_blocks",
                default=0,
                min=0,
                max=28,
                optional=True,
                advanced=True,
                tooltip="Blocks at the end that always run, where that is another number than at the beginning, 1 to 28. 0: as many as "
                "blocks. A branch needs both of its blocks, so that of more deep ones than blocks is left out at cached steps.",
            ),
        ]

    @classmethod
    def choose(
        cls, model: Any, n: int, blocks: int, start_percent: float, end_percent: float, forecast: str, deep_blocks: int = 0
    ) -> Choice:
        predictor, notes = CURVES.get(forecast), list[str]()
        if forecast not in CURVES:
            matrix, told = files.load_fitted(find(FITTED, forecast))
            predictor = Bridged(_fitting(matrix, forecast, _width(model)))
            notes = _differences(model, forecast, told, n, blocks, deep_blocks or blocks)
        recipe = skip_cache(n, blocks, (start_percent, end_percent), predictor=predictor, deep=deep_blocks or None)
        return Choice(recipe, tuple(notes))

    @classmethod
    def execute(cls, model: Any, cache_device: str = "auto", **widgets: Any) -> io.NodeOutput:
        choice = cls.choose(model, **widgets)
        recipe = replace(choice.recipe, placement=placement(cache_device, choice.recipe, family_of(model)))
        return io.NodeOutput(attach(model, recipe, _listening(widgets["forecast"], listener(cls.hidden.unique_id, choice.notes))))


def _fitting(matrix: Tensor, name: str, width: int | None) -> Tensor:
    """`matrix` [D, D]. Raises CacheError where the model's tokens are of another width than D."""
    found = len(matrix)
    if width is not None and found != width:
        raise CacheError(f"The branch {name!r} is of width {found}, and the model's tokens are of width {width}. Fit one on this model.")
    return matrix


def _differences(model: Any, name: str, told: Mapping[str, Any], n: int, blocks: int, deep: int) -> list[str]:
    """Notes where a fitted branch was made on another model, or for others than these `n` and numbers of blocks."""
    found = [*mismatch(model, f"branch {name!r} was fitted", told)]
    ends, most = told.get("blocks"), told.get("n", n)
    if ends not in (None, blocks) or ends not in (None, deep):
        found.append(f"The branch {name!r} was fitted for {ends} blocks at each end, and {blocks} and {deep} always run.")
    if n > most:
        found.append(f"The branch {name!r} was fitted for one whole step in up to {most}, and n is {n}.")
    return found


def _listening(forecast: str, show: Listener) -> Listener:
    """`show`, after a note where a branch was fitted on samplings with other steps: they lie otherwise apart."""
    steps = None if forecast in CURVES else files.load_fitted(find(FITTED, forecast))[1].get("steps")

    def listen(ledger: Ledger) -> None:
        if steps not in (None, ledger.steps):
            ledger.note(f"The branch {forecast!r} was fitted on samplings of {steps} steps, and this one has {ledger.steps}.")
        show(ledger)

    return listen


def _width(model: Any) -> int | None:
    """How wide the model's tokens are, where it says so."""
    network = model.model.diffusion_model
    if blocks_of(network) is None:
        return None
    shape = getattr(network, "shape", None)
    found = getattr(shape, "width", None) or getattr(network, "hidden_size", None) or getattr(network, "dim", None)
    return found if isinstance(found, int) else None
