"""Numbers that papers and their authors' code published, each with model, steps and source."""

from .masks import PublishedMask, from_cached

LEMICA = "LeMiCa, arXiv:2511.00090, github.com/UnicomAI/LeMiCa"
GOLDEN = "Golden Path Hypothesis, arXiv:2609.39343, github.com/nanguoyu/Golden-Path-Hypothesis"
FLUX_SHIFT = 3.158  # exp(1.15): FLUX.1-dev at 1024 x 1024
WAN_SHIFT = 5.0


def _lemica(model: str, shift: float, *computed: int) -> PublishedMask:
    return PublishedMask(f"LeMiCa {len(computed)} of 50", model, LEMICA, 50, shift, computed)


def _golden(name: str, model: str, shift: float, cached: str) -> PublishedMask:
    return from_cached(name, model, GOLDEN, shift, cached)


# Computed steps of 50.
FLUX_LEMICA = (
    _lemica("FLUX.1-dev", FLUX_SHIFT, *range(11), 12, 15, 18, 20, 25, 30, 35, 39, 42, *range(44, 50)),
    _lemica("FLUX.1-dev", FLUX_SHIFT, *range(8), 9, 12, 15, 19, 24, 31, 38, 43, *range(46, 50)),
    _lemica("FLUX.1-dev", FLUX_SHIFT, *range(6), 7, 10, 15, 20, 27, 34, 41, 47, 49),
    _lemica("FLUX.1-dev", FLUX_SHIFT, 0, 1, 3, 7, 14, 21, 28, 35, 42, 49),
)
WAN_LEMICA = (
    _lemica("Wan2.1-T2V-1.3B", WAN_SHIFT, *range(13), 14, 16, 18, 21, 24, 29, 35, 40, 44, 47, 48, 49),
    _lemica("Wan2.1-T2V-1.3B", WAN_SHIFT, *range(10), 11, 13, 16, 20, 26, 33, 40, 45, 48, 49),
    _lemica("Wan2.1-T2V-1.3B", WAN_SHIFT, *range(9), 10, 13, 18, 25, 32, 39, 46, 49),
    _lemica("Wan2.1-T2V-1.3B", WAN_SHIFT, *range(6), 7, 10, 16, 23, 30, 37, 44, 49),
)
# 1 = cached, 50 steps.
FLUX_GOLDEN = (
    _golden("DPCache 21 of 50", "FLUX.1-dev", FLUX_SHIFT, "00001010101101101101110101101101101101101101101010"),
    _golden("BudCache 21 of 50", "FLUX.1-dev", FLUX_SHIFT, "00001000111010010011011011110111011110111011010110"),
    _golden("MeanCache 21 of 50", "FLUX.1-dev", FLUX_SHIFT, "00000000010101101101110111011101111011110111011010"),
    _golden("BudCache 13 of 50", "FLUX.1-dev", FLUX_SHIFT, "00000101111011101111101111111011111111101111101110"),
    _golden("MeanCache 13 of 50", "FLUX.1-dev", FLUX_SHIFT, "00000101101110111101111110111111110111111110111110"),
    _golden("BudCache 9 of 50", "FLUX.1-dev", FLUX_SHIFT, "00010110111110111111011111111111111111101111111110"),
)
WAN_GOLDEN = (
    _golden("shared 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00010110101101101011010110110101101011011010110110"),
    _golden("BudCache 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000100101101111011101100111101110110111010101010"),
    _golden("MeanCache 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000000000010110110111011110111101111101111101110"),
    _golden("BudCache 13 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000100110110111111111101111111111101111111101110"),
    _golden("MeanCache 13 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000001011101111101111111101111111111011111111110"),
)
