"""Every published method once, with spans that fit the tiny models: a new one is covered by adding it here."""

from pack.cache_core import Recipe
from pack.cache_core import published as p
from pack.cache_core.tables import WAN_LEMICA


def published_methods() -> list[Recipe]:
    return [
        p.embedded(),
        p.examined(),
        p.fora(3, 2),
        p.teacache(),
        p.magcache(),
        p.easycache(),
        p.first_block_cache(),
        p.first_block_cache(longest=2),
        p.dbcache(front=1, back=1, warmup=2),
        p.dbcache_masked(),
        p.dicache(),
        p.dicache(family="wan"),
        p.taylorseer(3),
        p.hicache(3),
        p.freqca(3),
        p.spectrum(),
        p.lemica(),
        p.lemica(3.0, WAN_LEMICA),
        p.lemica(WAN_LEMICA[1], WAN_LEMICA),
        p.golden(),
        p.fora_branches(3, 2),
        p.taylorseer_branches(3),
        p.hicache_branches(3),
        p.pab(),
        p.pab(3, 4, 2, 0.0, 1.0),
        p.delta_dit(3, share=0.67),
        p.cfg_cache(3, 1.0),
    ]
