"""Methods that measure a change and reuse the residual of the blocks while it stays small."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ...cache_core import RecipeError
from ...cache_core import published as p
from ...cache_core.policies import Steps
from ..adapters.families import blocks_of, family_of
from .base import Choice, Method, percent, threshold, whole, within
from .tables import AUTO, CURVES, POLYNOMIALS, STEP_MASKS, pick

SIZES = (
    "a condition takes tokens x width x bytes of a value for each: FLUX.1 at 1024 x 1024 in bf16 28 MB, Wan 14B with 81 frames "
    "335 MB at 480p and 774 MB at 720p. CFG doubles it."
)
ONE = f"1 result; {SIZES}"
PROBED = f"1 result, and 1 more to compare with, of the picture's tokens, which stays beside the model; {SIZES}"
TABLE = "auto: by the size of the loaded model, and the report says so where none was made for it."


class EncoreTeaCache(Method):
    """TeaCache, with the widgets of ComfyUI-TeaCache."""

    node_id, title = "EncoreTeaCache", "TeaCache"
    summary = "TeaCache (arXiv:2411.19108): reuses the blocks' residual while the first block's input has changed little."
    aliases = ("teacache", "timestep embedding")
    memory = f"1 result, and, but for Wan, 1 more to compare with, of the picture's tokens, beside the model; {SIZES}"

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            threshold("rel_l1_thresh", 0.4, 10.0, RELATIVE),
            io.Combo.Input("model_type", options=[AUTO, *POLYNOMIALS], default=AUTO, tooltip=f"{RESCALED} {TABLE} {RET_MODE}"),
            percent("start_percent", 0.0, "Start"),
            percent("end_percent", 1.0, "End"),
        ]

    @classmethod
    def choose(cls, model: Any, rel_l1_thresh: float, model_type: str, start_percent: float, end_percent: float) -> Choice:
        models = {name: table.model for name, table in POLYNOMIALS.items()}
        table, fitted, notes = pick(model, POLYNOMIALS, models, model_type)
        highest = max(limit for limit, _ in table.speeds)
        if rel_l1_thresh > highest:
            notes += (f"rel_l1_thresh {rel_l1_thresh:g} is above {highest:g}, the highest published with the table of {table.model}.",)
        return Choice(within(p.teacache(rel_l1_thresh, table, fitted), start_percent, end_percent), notes)


RESCALED = "Whose polynomial rescales the change."
RET_MODE = "ret_mode computes the first five steps; Wan without it computes the first and the last."
RELATIVE = (
    "Summed change below which steps are reused, 0 (compute all) to 10. Higher is faster and further from the uncached picture. Published: "
    "FLUX 0.25 to 0.8, Wan 1.3B 0.05 to 0.1, Wan 14B 0.1 to 0.2, Wan I2V 0.13 to 0.3."
)


class EncoreMagCache(Method):
    """MagCache, with the widgets of ComfyUI-MagCache."""

    node_id, title = "EncoreMagCache", "MagCache"
    summary = "MagCache (arXiv:2506.09045): reuses the blocks' residual while a measured curve of its size foretells a small error."
    aliases = ("magcache", "magnitude")
    memory = ONE

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            io.Combo.Input("model_type", options=[AUTO, *CURVES], default=AUTO, tooltip=f"Whose curve is read. {TABLE} {OTHER_STEPS}"),
            threshold(
                "magcache_thresh",
                0.06,
                0.3,
                "Foretold error below which steps are reused, 0 (compute all) to 0.3. Published: 0.24 for FLUX, 0.12 for Wan.",
            ),
            io.Float.Input(
                "retention_ratio",
                default=0.2,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="Fraction of the steps computed at the start, 0.0 to 1.0. Published: 0.1 for FLUX, 0.2 for Wan.",
            ),
            whole("magcache_K", 2, 0, 100, "Most steps reused in a row, 0 to 100. Published: 5 for FLUX, 2 to 6 for Wan."),
            whole("start_step", 0, 0, 1000, "First step that may be reused, counted from 0. Steps before it are computed."),
            whole("end_step", -1, -1000, 1000, "Last step that may be reused, counted from 0; -1 is the last of all, -2 the one before."),
        ]

    @classmethod
    def choose(cls, model: Any, *, model_type: str, magcache_thresh: float, retention_ratio: float, magcache_K: int, **span: int) -> Choice:
        models = {name: curves[0].model for name, curves in CURVES.items()}
        curves, _, notes = pick(model, CURVES, models, model_type)
        recipe = p.magcache(magcache_thresh, magcache_K, retention_ratio, curves)
        return Choice(replace(recipe, policy=Steps(recipe.policy, span["start_step"], span["end_step"])), notes)


OTHER_STEPS = "With another number of steps than the curve has, each step takes the nearest one, as the authors do."


class EncoreEasyCache(Method):
    """EasyCache, with the widgets of ComfyUI's own node."""

    node_id, title = "EncoreEasyCache", "EasyCache"
    summary = (
        "EasyCache (arXiv:2507.02860): reuses the model's output minus its input while the input's change foretells a small one of it."
    )
    aliases = ("easycache", "lazycache")

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            threshold(
                "reuse_threshold",
                0.2,
                3.0,
                "Summed relative change of the output below which steps are reused, 0 (compute all) to "
                "3. The paper has 0.05 for Wan; higher is faster and further from the uncached picture.",
            ),
            percent("start_percent", 0.15, "Start"),
            percent("end_percent", 0.95, "End"),
        ]

    @classmethod
    def choose(cls, model: Any, reuse_threshold: float, start_percent: float, end_percent: float) -> Choice:
        return Choice(p.easycache(reuse_threshold, start_percent, end_percent))


class EncoreFirstBlockCache(Method):
    """First-Block Cache, with the widgets of Comfy-WaveSpeed."""

    node_id, title = "EncoreFirstBlockCache", "First-Block Cache"
    summary = "First-Block Cache (Comfy-WaveSpeed): runs the first block, and reuses the others' residual while its own has changed little."
    aliases = ("fbcache", "wavespeed", "first block")
    memory = PROBED

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            threshold(
                "residual_diff_threshold",
                0.12,
                1.0,
                "Relative change of the first block's residual below which steps are reused, 0 "
                "(compute all) to 1. 0.12 is WaveSpeed's advice for FLUX; its own node starts at 0, which is off.",
            ),
            percent("start", 0.0, "Start"),
            percent("end", 1.0, "End"),
            whole("max_consecutive_cache_hits", -1, -1, 1000, "Most steps reused in a row, 0 to 1000; -1 is no limit."),
        ]

    @classmethod
    def choose(cls, model: Any, residual_diff_threshold: float, start: float, end: float, max_consecutive_cache_hits: int) -> Choice:
        return Choice(p.first_block_cache(residual_diff_threshold, start, end, max_consecutive_cache_hits))


class EncoreDBCache(Method):
    """DBCache and its step masks, with the settings of cache-dit."""

    node_id, title = "EncoreDBCache", "DBCache"
    summary = "DBCache (cache-dit): runs the first and last blocks always, and reuses the residual of those between."
    aliases = ("dbcache", "cache-dit", "cachedit", "scm", "dual block")
    memory = PROBED

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            whole(
                "Fn_compute_blocks",
                8,
                1,
                100,
                "Blocks at the front that always run and whose residual is compared, 1 to 100. More: safer "
                "and slower. A model with fewer blocks takes the same share of them as FLUX does, and the report says so.",
            ),
            whole("Bn_compute_blocks", 0, 0, 100, "Blocks at the back that always run, 0 to 100."),
            threshold("residual_diff_threshold", 0.08, 1.0, "Relative change below which steps are reused, 0 (compute all) to 1."),
            whole("max_warmup_steps", 8, 0, 1000, "Steps computed at the start, 0 to 1000."),
            whole("max_continuous_cached_steps", -1, -1, 1000, "Most steps reused in a row, 0 to 1000; -1 is no limit."),
            io.Combo.Input(
                "steps_mask",
                options=["none", *STEP_MASKS],
                default="none",
                tooltip="A fixed list of the steps to compute, made for "
                "28 and carried over to others, in place of threshold, warm-up and longest run. slow is the safest, ultra the fastest.",
            ),
        ]

    @classmethod
    def choose(cls, model: Any, *, steps_mask: str, **settings: Any) -> Choice:
        front, back, notes = _ends(model, settings["Fn_compute_blocks"], settings["Bn_compute_blocks"])
        if steps_mask != "none":
            return Choice(p.dbcache_masked(STEP_MASKS[steps_mask], front, back), notes)
        limit, warmup = settings["residual_diff_threshold"], settings["max_warmup_steps"]
        return Choice(p.dbcache(limit, front, back, warmup, settings["max_continuous_cached_steps"]), notes)


def _ends(model: Any, front: int, back: int) -> tuple[int, int, tuple[str, ...]]:
    """Blocks at front and back that the loaded model can do without caching, and a note if these are not those wished for."""
    network = model.model.diffusion_model
    blocks = blocks_of(network)
    count = len(blocks.keys(network)) if blocks else 0
    if not count or front + back < count:
        return front, back, ()
    share = count / FLUX_BLOCKS
    fewer = max(1, int(front * share)), int(back * share)
    if sum(fewer) >= count:
        raise RecipeError(
            f"{front} blocks at the front and {back} at the back leave none of the model's {count} to cache: make them smaller."
        )
    return *fewer, (
        f"The model has {count} blocks, so {fewer[0]} at the front and {fewer[1]} at the back always run, not {front} and {back}.",
    )


FLUX_BLOCKS = 57


class EncoreDiCache(Method):
    """DiCache, with the settings of its authors' code."""

    node_id, title = "EncoreDiCache", "DiCache"
    summary = "DiCache (arXiv:2508.17356): runs the first block, decides by it, and moves the residual on between the last two."
    aliases = ("dicache", "probe")
    memory = f"2 results, and 3 of the picture's tokens to compare with, 1 of them beside the model; {SIZES}"

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            threshold(
                "rel_l1_thresh",
                -1.0,
                10.0,
                "Summed change of the tokens after the first block below which steps are reused, 0 (compute "
                "all) to 10; -1 is the authors' own for the model: 0.4 for FLUX and all others, 0.08 for Wan.",
                least=-1.0,
            ),
            io.Float.Input(
                "ret_ratio", default=0.2, min=0.0, max=1.0, step=0.01, tooltip="Fraction of the steps computed at the start, 0.0 to 1.0."
            ),
            whole("probe_depth", 1, 1, 100, "Blocks that always run and are looked at, 1 to 100. More: safer and slower."),
        ]

    @classmethod
    def choose(cls, model: Any, rel_l1_thresh: float, ret_ratio: float, probe_depth: int) -> Choice:
        front, _, notes = _ends(model, probe_depth, 0)
        limit = None if rel_l1_thresh < 0.0 else rel_l1_thresh
        return Choice(p.dicache(limit, family_of(model), ret_ratio, front), notes)
