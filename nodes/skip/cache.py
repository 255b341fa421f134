"""Encore Skip Cache: the outer blocks at every step, the middle ones once in n."""

from typing import Any

from comfy_api.latest import io

from ...cache_core import CacheError
from ...cache_core.predictors import Lagrange, Predictor
from ...cache_core.skip import files
from ...cache_core.skip.cache import Bridged, skip_cache
from ..adapters.families import blocks_of
from ..methods.base import Choice, Method, percent, whole
from .files import FITTED, find, names

LAST, LINE = "last", "line"


class EncoreSkipCache(Method):
    """Skip-Cache."""

    node_id, title, category = "EncoreSkipCache", "Encore Skip Cache", "encore/skip"
    summary = (
        "Skip-Cache (arXiv:2411.17616): one whole step, then n - 1 that run only the first and the last blocks, joined by skip branches. "
        "Made for models with branches; on others it works best with a fitted one."
    )
    aliases = ("skip-cache", "skip-dit", "long skip connections", "fitted branch")
    memory = "1 result after the middle blocks; FLUX.1 at 1024 x 1024 in bf16 28 MB, Wan 14B with 81 frames at 480p 335 MB a condition."

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
                options=[LAST, LINE, *names(FITTED)],
                default=LAST,
                tooltip="What enters the last blocks in place of the middle ones' result. last: that of the last whole step, as published. "
                "line: the line through the last two. A name: that branch of Encore Skip Fit mends the last one by the fresh first blocks.",
            ),
        ]

    @classmethod
    def choose(cls, model: Any, n: int, blocks: int, start_percent: float, end_percent: float, forecast: str) -> Choice:
        predictor, notes = _predictor(forecast, _width(model), blocks)
        return Choice(skip_cache(n, blocks, (start_percent, end_percent), predictor=predictor), notes)


def _predictor(forecast: str, width: int | None, blocks: int) -> tuple[Predictor | None, tuple[str, ...]]:
    """The predictor of this name, and notes where it was made for other settings."""
    if forecast in (LAST, LINE):
        return (None if forecast == LAST else Lagrange(1)), ()
    matrix, about = files.load_fitted(find(FITTED, forecast))
    found = len(matrix)
    if width is not None and found != width:
        raise CacheError(
            f"The branch {forecast!r} is of width {found}, and the model's tokens are of width {width}. Fit one on this model."
        )
    other = about.get("blocks") not in (None, blocks)
    notes = (f"The branch {forecast!r} was fitted for {about['blocks']} blocks at each end, and {blocks} always run.",) if other else ()
    return Bridged(matrix), notes


def _width(model: Any) -> int | None:
    """How wide the model's tokens are, where it says so."""
    network = model.model.diffusion_model
    if blocks_of(network) is None:
        return None
    shape = getattr(network, "shape", None)
    found = getattr(shape, "width", None) or getattr(network, "hidden_size", None) or getattr(network, "dim", None)
    return found if isinstance(found, int) else None
