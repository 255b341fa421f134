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
    ]
