"""Methods that compute at intervals and forecast what lies between."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...cache_core import Recipe
from ...cache_core import published as p
from ...cache_core.policies import Steps
from ...cache_core.predictors import Chebyshev
from .base import Choice, Method, whole
from .gated import SIZES

EVERY = "One step in so many is computed, 1 (all) to 100; the others are forecast. Higher is faster and further from the uncached picture."
FIRST = "Steps computed at the start, 0 to 100. The forecast needs some to go by; the first steps fix the layout."
LAST = "From this step on, counted from 0, all are computed; at or above the number of steps it does nothing."
ORDER = (
    "Order of the forecast: 0 repeats the last result, 1 goes on in a line, 2 in a curve. 2 needs many steps. Each order keeps one more."
)
ORDERS = f"max_order + 1 results; {SIZES} With lite off, as many for each attention, cross-attention and MLP of every block."
LITE = (
    "On: one result for each condition. Off: as published, one for every attention and MLP of every block, which takes gigabytes on large "
    "models (Wan 14B at 480p: 40 GB a condition and order)."
)


class EncoreFORA(Method):
    """FORA: an interval, and the last result."""

    node_id, title = "EncoreFORA", "FORA"
    summary = "FORA (arXiv:2407.01425): computes one step in so many and repeats the last result in between."
    aliases = ("fora", "interval")
    memory = f"with lite on 1 latent. Off: 1 result for each attention, cross-attention and MLP of every block; {SIZES}"

    @classmethod
    def widgets(cls) -> list[Any]:
        return [whole("interval", 3, 1, 100, EVERY), whole("first_enhance", 3, 0, 100, FIRST), lite()]

    @classmethod
    def choose(cls, model: Any, interval: int, first_enhance: int, lite: bool) -> Choice:
        return Choice((p.fora if lite else p.fora_branches)(interval, first_enhance))


class EncoreTaylorSeer(Method):
    """TaylorSeer, with the widgets of ComfyUI-TaylorSeer."""

    node_id, title = "EncoreTaylorSeer", "TaylorSeer"
    summary = "TaylorSeer (arXiv:2503.06923): computes one step in so many and forecasts the others by a Taylor series."
    aliases = ("taylorseer", "taylor")
    memory = ORDERS

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            whole("fresh_threshold", 6, 1, 100, EVERY),
            whole("max_order", 2, 0, 4, ORDER),
            whole("first_enhance", 3, 0, 100, FIRST),
            whole("last_enhance", 50, 1, 1000, LAST),
            lite(),
        ]

    @classmethod
    def choose(cls, model: Any, *, fresh_threshold: int, max_order: int, first_enhance: int, last_enhance: int, lite: bool) -> Choice:
        recipe = (p.taylorseer if lite else p.taylorseer_branches)(fresh_threshold, max_order, first_enhance)
        return Choice(until(recipe, last_enhance))


class EncoreHiCache(Method):
    """HiCache: TaylorSeer with Hermite polynomials."""

    node_id, title = "EncoreHiCache", "HiCache"
    summary = "HiCache (arXiv:2508.16984): as TaylorSeer, with scaled Hermite polynomials, which grow more slowly."
    aliases = ("hicache", "hermite")
    memory = ORDERS

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            whole("interval", 6, 1, 100, EVERY),
            whole("max_order", 2, 0, 4, ORDER),
            whole("first_enhance", 3, 0, 100, FIRST),
            lite(),
        ]

    @classmethod
    def choose(cls, model: Any, interval: int, max_order: int, first_enhance: int, lite: bool) -> Choice:
        return Choice((p.hicache if lite else p.hicache_branches)(interval, max_order, first_enhance))


class EncoreFreqCa(Method):
    """FreqCa: what is coarse is held, what is fine is forecast."""

    node_id, title = "EncoreFreqCa", "FreqCa"
    summary = "FreqCa (arXiv:2510.08669): holds the low frequencies of the blocks' residual and forecasts the high ones."
    aliases = ("freqca", "frequency")
    memory = f"3 results; {SIZES}"

    @classmethod
    def widgets(cls) -> list[Any]:
        return [whole("interval", 5, 1, 100, EVERY), whole("first_enhance", 3, 0, 100, FIRST)]

    @classmethod
    def choose(cls, model: Any, interval: int, first_enhance: int) -> Choice:
        return Choice(p.freqca(interval, first_enhance))


class EncoreSpectrum(Method):
    """Spectrum, with the widgets of its ComfyUI packs."""

    node_id, title = "EncoreSpectrum", "Spectrum"
    summary = "Spectrum (arXiv:2603.01623): computes at growing intervals and fits a Chebyshev series to all results so far."
    aliases = ("spectrum", "chebyshev")
    memory = f"every computed result, up to max_history; {SIZES}"

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            _real(
                "blend_weight",
                0.5,
                0.0,
                1.0,
                "Share of the series in the forecast, 0.0 to 1.0; the rest is a line through the last two results. The paper has 1.",
            ),
            whole("degree", 4, 0, 8, "Degree of the series, 0 to 8. Higher follows faster changes, and noise."),
            _real("ridge_lambda", 0.1, 0.001, 10.0, "How strongly the series is kept small, 0.001 to 10. Higher is smoother."),
            _real("window_size", 2.0, 1.0, 100.0, "One step in so many is computed at first, 1 (all) to 100; rounded down."),
            _real(
                "flex_window",
                0.75,
                0.0,
                10.0,
                "How much wider the window gets with each computed step, 0.0 to 10. The paper has 0.75, and 3 for more speed.",
            ),
            whole("warmup_steps", 5, 0, 1000, "Steps computed at the start, 0 to 1000."),
            whole("tail_actual_steps", 3, 0, 1000, "Steps computed at the end, 0 to 1000."),
            whole(
                "max_history",
                128,
                2,
                1000,
                "Most results kept, 2 to 1000. Fewer take less memory and forget the early ones.",
                advanced=True,
            ),
        ]

    @classmethod
    def choose(cls, model: Any, **settings: Any) -> Choice:
        curve = Chebyshev(settings["degree"], settings["ridge_lambda"], settings["blend_weight"], settings["max_history"])
        window, growth = settings["window_size"], settings["flex_window"]
        return Choice(p.spectrum(window, growth, settings["warmup_steps"], settings["tail_actual_steps"], curve))


def lite() -> io.Boolean.Input:
    """The widget that says how much is kept."""
    return io.Boolean.Input("lite", default=True, tooltip=LITE)


def _real(name: str, default: float, least: float, most: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=least, max=most, step=0.01, round=0.001, tooltip=tooltip)


def until(recipe: Recipe, step: int) -> Recipe:
    """`recipe`, computing everything from `step`, 1 or more, on."""
    return replace(recipe, policy=Steps(recipe.policy, 0, step - 1))
