"""Methods that reuse a part of the work: some branches, some blocks, or the negative prompt alone."""

from typing import Any

from ...cache_core import published as p
from ..adapters.families import blocks_of
from .base import Choice, Method, percent, threshold, whole
from .gated import SIZES

RANGE = "is computed once in so many steps, 1 (always) to 100. Higher is faster and further from the uncached picture."


class EncorePAB(Method):
    """Pyramid Attention Broadcast."""

    node_id, title = "EncorePAB", "PAB"
    summary = "PAB (arXiv:2408.12588): reuses attention outputs in the middle of the sampling, cross-attention for longer."
    aliases = ("pab", "pyramid attention broadcast")
    memory = (
        f"1 result for each attention, cross-attention and MLP that is reused, of every block; {SIZES} Wan 14B at 480p: 27 GB a condition."
    )

    @classmethod
    def widgets(cls) -> list[Any]:
        return [
            whole("attention_range", 2, 1, 100, f"Attention {RANGE}"),
            whole("cross_attention_range", 6, 1, 100, f"Cross-attention {RANGE} Flux has none."),
            whole("mlp_range", 1, 1, 100, f"The MLP {RANGE}"),
            percent("start_percent", 0.15, "Start"),
            percent("end_percent", 0.85, "End"),
        ]

    @classmethod
    def choose(cls, model: Any, *, start_percent: float, end_percent: float, **ranges: int) -> Choice:
        attention, cross, mlp = (ranges[f"{branch}_range"] for branch in ("attention", "cross_attention", "mlp"))
        return Choice(p.pab(attention, cross, mlp, start_percent, end_percent))


class EncoreDeltaDiT(Method):
    """Delta-DiT."""

    node_id, title = "EncoreDeltaDiT", "Delta-DiT"
    summary = "Delta-DiT (arXiv:2406.01125): skips rear blocks early in the sampling and front blocks late, and adds what they added last."
    aliases = ("delta-dit", "deltadit")
    memory = f"up to 3 results, one for each span of blocks; {SIZES}"

    @classmethod
    def widgets(cls) -> list[Any]:
        share = "Share of the blocks that is skipped, 0.05 to 1.0. More is faster and further from the uncached picture."
        switch = "Fraction of the steps after which front blocks are skipped in place of rear ones, 0.0 to 1.0. 0.6 is our choice."
        return [
            whole("interval", 2, 1, 100, f"A skipped block {RANGE}"),
            threshold("share", 0.75, 1.0, share, least=0.05),
            threshold("switch", 0.6, 1.0, switch),
        ]

    @classmethod
    def choose(cls, model: Any, interval: int, share: float, switch: float) -> Choice:
        network = model.model.diffusion_model
        blocks = blocks_of(network)
        count = len(blocks.keys(network)) if blocks else 1  # of an unknown network nothing inside is cached
        return Choice(p.delta_dit(count, interval, share, switch))


class EncoreFasterCache(Method):
    """FasterCache's CFG-Cache."""

    node_id, title = "EncoreFasterCache", "FasterCache"
    summary = "FasterCache's CFG-Cache (arXiv:2410.19355): rebuilds the negative prompt's result from the positive's at most steps."
    aliases = ("fastercache", "cfg-cache", "cfg")

    @classmethod
    def widgets(cls) -> list[Any]:
        sigma = "Noise level, sigma, below which it begins, 0.0 (never) to 1.0. Published: timestep 641 of 1000."
        return [
            whole("interval", 5, 1, 100, f"The negative prompt {RANGE}"),
            threshold("start_sigma", 0.641, 1.0, sigma),
        ]

    @classmethod
    def choose(cls, model: Any, interval: int, start_sigma: float) -> Choice:
        return Choice(p.cfg_cache(interval, start_sigma))
