"""MagCache's curves: how the size of the whole stack's residual changes from step to step, the same for every prompt."""

import math
from dataclasses import dataclass
from functools import lru_cache

from ..errors import RecipeError
from ..types import Schedule
from .masks import FLUX_SHIFT, WAN_SHIFT

MAGCACHE = "MagCache, arXiv:2506.09045, github.com/Zehong-Ma/MagCache"


@dataclass(frozen=True, slots=True)
class Curve:
    """`ratios[i]` is mean(|residual at step i| / |residual at step i - 1|) of a rectified-flow run of time shift `shift`.

    `threshold`, `longest` and `retained` are the authors' settings: the error allowed, the reuses in a row, and the fraction
    of the steps computed at the start. `always` are steps of the curve that their code never reuses at.
    """

    name: str
    model: str
    source: str
    shift: float
    ratios: tuple[float, ...]
    threshold: float
    longest: int
    retained: float
    always: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        wrong = [ratio for ratio in self.ratios if not 0.0 < ratio < math.inf]
        if len(self.ratios) < 2 or wrong:
            raise RecipeError(f"A curve needs 2 or more positive ratios, not {wrong or self.ratios}; the first one may be 1.")

    @property
    def total(self) -> int:
        return len(self.ratios)

    def sigma(self, step: int) -> float:
        """Noise level of `step`, 0 to total, in the run the curve was measured on: shift t / (1 + (shift - 1) t), t = 1 - step / total."""
        time = 1.0 - step / self.total
        return self.shift * time / (1.0 + (self.shift - 1.0) * time)

    def step(self, sigma: float) -> int:
        """The curve's step, 0 to total, whose noise level is nearest to `sigma`."""
        return min(range(self.total + 1), key=lambda step: abs(self.sigma(step) - sigma))


@lru_cache(maxsize=4096)
def place(curve: Curve, schedule: Schedule, index: int) -> int:
    """The step of `curve` that stands for step `index` of `schedule`.

    A schedule that spans all noise levels takes the nearest step by number, as the authors' `nearest_interp` does. A part of
    one (image to image, one of two experts, a sampler that starts late) takes the step nearest in noise level: by number it
    would be read against the whole curve.
    """
    last = curve.total - 1
    if curve.step(schedule.sigmas[0]) > 0 or curve.step(schedule.sigmas[-1]) <= last:
        return min(curve.step(schedule.sigmas[index]), last)
    return round(index * last / (schedule.total - 1)) if schedule.total > 1 else last


def _flux(name: str, *ratios: float) -> Curve:
    return Curve(name, "FLUX.1-dev", MAGCACHE, FLUX_SHIFT, ratios, 0.24, 5, 0.1, (11,))


def _wan(name: str, model: str, *ratios: float, shift: float = WAN_SHIFT) -> Curve:
    """The code's own defaults; its README runs 1.3B with 4 reuses in a row, and 14B with 6 and threshold 0.24."""
    return Curve(name, model, MAGCACHE, shift, ratios, 0.12, 2, 0.2)


# fmt: off
FLUX_MAGNITUDE = _flux(
    "MagCache FLUX",
    1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125, 1.02344, 0.98047, 1.01562, 1.00781, 1.0,
    1.00781, 1.0, 1.00781, 1.0, 1.0, 0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703, 0.93359, 0.89062,
)
WAN_1B_MAGNITUDE = _wan(
    "MagCache Wan 1.3B cond",
    "Wan2.1-T2V-1.3B",
    1.0, 1.0124, 1.00166, 0.99791, 0.99682, 0.99634, 0.99567, 0.99416, 0.99578, 0.9957, 0.99511, 0.99535, 0.99552, 0.99541, 0.9954,
    0.99489, 0.99518, 0.99484, 0.99481, 0.99415, 0.99419, 0.99396, 0.99388, 0.99349, 0.99309, 0.9927, 0.99228, 0.99171, 0.99137,
    0.99068, 0.99005, 0.98944, 0.98849, 0.98758, 0.98644, 0.98504, 0.9836, 0.98202, 0.97977, 0.97717, 0.9741, 0.97003, 0.96538, 0.9593,
    0.95086, 0.94013, 0.92402, 0.90241, 0.86821, 0.81838,
)
WAN_1B_MAGNITUDE_UNCOND = _wan(
    "MagCache Wan 1.3B uncond",
    "Wan2.1-T2V-1.3B",
    1.0, 1.02213, 1.0041, 1.00061, 0.99762, 0.99685, 0.99586, 0.99422, 0.99575, 0.99563, 0.99506, 0.99531, 0.99549, 0.99539, 0.99536,
    0.99485, 0.99514, 0.99478, 0.99479, 0.99413, 0.99416, 0.99393, 0.99386, 0.99349, 0.99304, 0.9927, 0.99226, 0.9917, 0.99135, 0.99063,
    0.99003, 0.98942, 0.98849, 0.98757, 0.98643, 0.98503, 0.98359, 0.98201, 0.97978, 0.97718, 0.97411, 0.97002, 0.96541, 0.95933,
    0.95089, 0.94019, 0.92414, 0.9026, 0.86868, 0.81939,
)
WAN_14B_MAGNITUDE = _wan(
    "MagCache Wan 14B cond",
    "Wan2.1-T2V-14B",
    1.0, 1.02504, 1.00025, 0.9985, 0.99779, 0.9966, 0.99482, 0.99467, 0.99664, 0.99434, 0.99533, 0.99468, 0.99438, 0.99516, 0.99384,
    0.99404, 0.99517, 0.99409, 0.99428, 0.99347, 0.99418, 0.99271, 0.99313, 0.99215, 0.99218, 0.99216, 0.99163, 0.99138, 0.98982,
    0.98996, 0.9887, 0.98772, 0.98767, 0.98573, 0.98501, 0.9838, 0.98177, 0.98037, 0.97678, 0.97546, 0.97184, 0.96711, 0.96349, 0.95629,
    0.94926, 0.93964, 0.92511, 0.90693, 0.8796, 0.86111,
)
WAN_14B_MAGNITUDE_UNCOND = _wan(
    "MagCache Wan 14B uncond",
    "Wan2.1-T2V-14B",
    1.0, 1.03017, 1.00251, 0.99962, 0.99771, 0.99658, 0.99476, 0.99451, 0.99656, 0.99431, 0.99545, 0.99465, 0.99434, 0.99517, 0.9938,
    0.99401, 0.99516, 0.99408, 0.99426, 0.99343, 0.99416, 0.99269, 0.99311, 0.99215, 0.99215, 0.99217, 0.99161, 0.99135, 0.9898,
    0.98995, 0.98866, 0.9877, 0.98765, 0.9857, 0.98498, 0.98376, 0.98173, 0.98035, 0.97677, 0.97543, 0.97183, 0.96708, 0.96345, 0.95625,
    0.94929, 0.93961, 0.92504, 0.90678, 0.87945, 0.86189,
)
WAN_I2V_480_MAGNITUDE = _wan(
    "MagCache Wan I2V 480P cond",
    "Wan2.1-I2V-14B-480P",
    1.0, 0.98783, 0.97559, 0.98311, 0.98202, 0.9888, 0.98762, 0.98957, 0.99052, 0.99383, 0.98857, 0.99065, 0.98845, 0.99057, 0.98957,
    0.98601, 0.98823, 0.98756, 0.98808, 0.98721, 0.98571, 0.98543, 0.98157, 0.98411, 0.97952, 0.98149, 0.9774, 0.97825, 0.97355,
    0.97085, 0.97056, 0.96588, 0.96113, 0.9567, 0.94961, 0.93973, 0.93217, 0.91878, 0.90955, 0.92617,
    shift=3.0,
)
WAN_I2V_480_MAGNITUDE_UNCOND = _wan(
    "MagCache Wan I2V 480P uncond",
    "Wan2.1-I2V-14B-480P",
    1.0, 0.98993, 0.97593, 0.98319, 0.98225, 0.98878, 0.98759, 0.98971, 0.99043, 0.99384, 0.9886, 0.99068, 0.98847, 0.99057, 0.98961,
    0.9861, 0.98823, 0.98759, 0.98814, 0.98724, 0.98572, 0.98544, 0.98165, 0.98413, 0.97953, 0.9815, 0.97742, 0.97826, 0.97361, 0.97087,
    0.97055, 0.96587, 0.96124, 0.95681, 0.94969, 0.93988, 0.93224, 0.91896, 0.90954, 0.92616,
    shift=3.0,
)
WAN_I2V_720_MAGNITUDE = _wan(
    "MagCache Wan I2V 720P cond",
    "Wan2.1-I2V-14B-720P",
    1.0, 0.99428, 0.98588, 0.98273, 0.99018, 0.98911, 0.98646, 0.99454, 0.9891, 0.99124, 0.99102, 0.99215, 0.99515, 0.99576, 0.99068,
    0.99097, 0.99166, 0.99041, 0.99201, 0.99101, 0.98599, 0.98845, 0.98848, 0.98862, 0.98718, 0.98497, 0.98264, 0.98389, 0.97938,
    0.97535, 0.97498, 0.973, 0.96827, 0.96261, 0.95335, 0.94649, 0.93397, 0.91636, 0.89088, 0.8679,
)
WAN_I2V_720_MAGNITUDE_UNCOND = _wan(
    "MagCache Wan I2V 720P uncond",
    "Wan2.1-I2V-14B-720P",
    1.0, 0.99498, 0.98621, 0.98281, 0.99023, 0.98917, 0.98652, 0.99456, 0.98909, 0.99127, 0.99103, 0.99212, 0.99515, 0.99572, 0.99072,
    0.99097, 0.99169, 0.99042, 0.99198, 0.99101, 0.98603, 0.98844, 0.98851, 0.98857, 0.98719, 0.98497, 0.98263, 0.98393, 0.9794,
    0.97536, 0.97499, 0.97301, 0.96828, 0.96263, 0.9534, 0.94655, 0.93414, 0.9165, 0.89109, 0.86768,
)
# fmt: on
