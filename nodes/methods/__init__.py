"""A node for each method: a class that says its words, its widgets and its recipe."""

from .base import Method
from .forecasting import EncoreFORA, EncoreFreqCa, EncoreHiCache, EncoreSpectrum, EncoreTaylorSeer
from .gated import EncoreDBCache, EncoreDiCache, EncoreEasyCache, EncoreFirstBlockCache, EncoreMagCache, EncoreTeaCache
from .measured import EncoreClosedLoop, EncoreEmbedded
from .parts import EncoreDeltaDiT, EncoreFasterCache, EncorePAB
from .scheduled import EncoreGoldenPath, EncoreLeMiCa

METHODS: list[type[Method]] = [
    EncoreTeaCache,
    EncoreMagCache,
    EncoreEasyCache,
    EncoreFirstBlockCache,
    EncoreDBCache,
    EncoreDiCache,
    EncoreFORA,
    EncoreTaylorSeer,
    EncoreHiCache,
    EncoreFreqCa,
    EncoreSpectrum,
    EncoreLeMiCa,
    EncoreGoldenPath,
    EncorePAB,
    EncoreDeltaDiT,
    EncoreFasterCache,
    EncoreEmbedded,
    EncoreClosedLoop,
]
