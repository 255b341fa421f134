"""Published step masks: which steps of a run of known length are computed."""

from ..masks import PublishedMask, from_cached

LEMICA = "LeMiCa, arXiv:2511.00090, github.com/UnicomAI/LeMiCa"
GOLDEN = "Golden Path Hypothesis, arXiv:2609.39343, github.com/nanguoyu/Golden-Path-Hypothesis"
FLUX_SHIFT = 3.158  # exp(1.15): FLUX.1-dev at 1024 x 1024
WAN_SHIFT = 5.0
SCM = "cache-dit step computation masks, github.com/vipshop/cache-dit"


def _lemica(model: str, shift: float, *computed: int, total: int = 50) -> PublishedMask:
    return PublishedMask(f"LeMiCa {len(computed)} of {total}", model, LEMICA, total, shift, computed)


def _lemica_i2v(*computed: int) -> PublishedMask:
    return _lemica("Wan2.1-I2V-14B", WAN_SHIFT, *computed, total=40)


def _scm(name: str, printed: str) -> PublishedMask:
    """A mask of cache-dit, printed as digits, a step each, 1 = computed: the other way round."""
    computed = tuple(n for n, digit in enumerate(printed) if digit == "1")
    return PublishedMask(f"cache-dit {name}", "FLUX.1-dev", SCM, len(printed), FLUX_SHIFT, computed)


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
WAN_14B_LEMICA = (
    _lemica("Wan2.1-T2V-14B", WAN_SHIFT, *range(12), 13, 15, 18, 21, 25, 29, 34, 38, 42, 45, 47, 48, 49),
    _lemica("Wan2.1-T2V-14B", WAN_SHIFT, *range(10), 11, 14, 18, 23, 29, 36, 42, 46, 48, 49),
    _lemica("Wan2.1-T2V-14B", WAN_SHIFT, *range(8), 9, 12, 16, 22, 29, 36, 43, 47, 49),
    _lemica("Wan2.1-T2V-14B", WAN_SHIFT, *range(6), 7, 10, 17, 24, 31, 38, 45, 49),
)
# Computed steps of 40; the shift is that of 720P (480P runs with 3).
WAN_I2V_LEMICA = (
    _lemica_i2v(*range(11), 12, 14, 16, 18, 21, 24, 27, 30, 32, 34, 36, 37, 38, 39),
    _lemica_i2v(*range(7), 8, 10, 12, 15, 18, 21, 25, 29, 32, 35, 37, 38, 39),
    _lemica_i2v(*range(6), 7, 9, 12, 15, 19, 24, 29, 33, 36, 38, 39),
    _lemica_i2v(*range(5), 6, 8, 11, 15, 22, 29, 34, 37, 39),
)
# 1 = cached, 50 steps. Those of SeaCache, TeaCache and SenCache are schedules that these methods chose as they ran.
FLUX_GOLDEN = (
    _golden("DPCache 21 of 50", "FLUX.1-dev", FLUX_SHIFT, "00001010101101101110101101101101101101101101101010"),
    _golden("BudCache 21 of 50", "FLUX.1-dev", FLUX_SHIFT, "00001000111010010011011011110111011110111011010110"),
    _golden("MeanCache 21 of 50", "FLUX.1-dev", FLUX_SHIFT, "00000000010101101101110111011101111011110111011010"),
    _golden("BudCache 13 of 50", "FLUX.1-dev", FLUX_SHIFT, "00000101111011101111101111111011111111101111101110"),
    _golden("MeanCache 13 of 50", "FLUX.1-dev", FLUX_SHIFT, "00000101101110111101111110111111110111111110111110"),
    _golden("BudCache 9 of 50", "FLUX.1-dev", FLUX_SHIFT, "00010110111110111111011111111111111111101111111110"),
    _golden("SeaCache 21 of 50", "FLUX.1-dev", FLUX_SHIFT, "00000001010101101101101110111011101110111011101100"),
)
WAN_GOLDEN = (
    _golden("shared 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00010110101101101011010110110101101011011010110110"),
    _golden("BudCache 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000100101101111011101100111101110110111010101010"),
    _golden("MeanCache 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000000000010110110111011110111101111101111101110"),
    _golden("BudCache 13 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000100110110111111111101111111111101111111101110"),
    _golden("MeanCache 13 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000001011101111101111111101111111111011111111110"),
    _golden("SeaCache 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000000101010101101101110111011111011111011101100"),
    _golden("TeaCache 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000101101101110111101111011101110110101010101000"),
    _golden("SenCache 21 of 50", "Wan2.1-T2V-1.3B", WAN_SHIFT, "00000000001110111101111110111111011110111011010000"),
)
# 1 = computed. "slow" and "fast" of 28 steps and "ultra" of 30 as cache-dit's documents print them, its "ultra" being 30
# digits long beside the others' 28; "medium" from its code, the only place that has it.
SCM_PRINTED = (
    _scm("slow", "1111111101110011100110011000"),
    _scm("medium", "1111110110001100011000110001"),
    _scm("fast", "1111110100010000100000100000"),
    _scm("ultra", "111101000010000010000001000000"),
)
# What cache-dit's `steps_mask` makes of these names at 28 steps today: the last step is always computed.
SCM_CODE = (
    _scm("slow", "1111111101110011100110010001"),
    _scm("medium", "1111110110001100011000110001"),
    _scm("fast", "1111110100010000100000100001"),
    _scm("ultra", "1111001000001000000100000001"),
)
