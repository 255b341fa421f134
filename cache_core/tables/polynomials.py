"""TeaCache's polynomials: from the change of what the first block is shown to the change of what the last one says."""

from dataclasses import dataclass

from ..types import Probe

TEACACHE = "TeaCache, arXiv:2411.19108, github.com/ali-vilab/TeaCache"


@dataclass(frozen=True, slots=True)
class Polynomial:
    """`coefficients`, highest power first, fitted on runs of `steps` steps.

    `first` and `last` steps are always computed. `speeds` are thresholds with the speed-up measured by the authors on an
    A800, written as the seconds or minutes they printed. FLUX is shown its tokens, normed and modulated (`probe`); Wan the time
    embedding alone, or, with ret_steps, its projection to the blocks' modulations.
    """

    name: str
    model: str
    source: str
    steps: int
    coefficients: tuple[float, ...]
    speeds: tuple[tuple[float, float], ...]
    first: int = 1
    last: int = 1
    probe: Probe = Probe.MODULATED


def _wan(model: str, steps: int, coefficients: tuple[float, ...], *speeds: tuple[float, float]) -> Polynomial:
    return Polynomial(f"TeaCache {model}", model, TEACACHE, steps, coefficients, speeds, probe=Probe.EMBEDDING)


def _retained(model: str, steps: int, coefficients: tuple[float, ...], *speeds: tuple[float, float]) -> Polynomial:
    """With `use_ret_steps`: five steps at the start, none at the end."""
    return Polynomial(f"TeaCache {model} ret_steps", model, TEACACHE, steps, coefficients, speeds, 5, 0)


FLUX_CHANGE = Polynomial(
    "TeaCache FLUX",
    "FLUX.1-dev",
    TEACACHE,
    28,
    (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861),
    ((0.25, 1.5), (0.4, 1.8), (0.6, 2.0), (0.8, 2.25)),
)
WAN_1B_CHANGE = _wan(
    "Wan2.1-T2V-1.3B",
    50,
    (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774),
    (0.05, 175 / 117),
    (0.07, 175 / 110),
    (0.08, 175 / 88),
)
WAN_1B_CHANGE_RETAINED = _retained(
    "Wan2.1-T2V-1.3B",
    50,
    (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664),
    (0.05, 97 / 61),
    (0.10, 97 / 41),
)
WAN_14B_CHANGE = _wan(
    "Wan2.1-T2V-14B",
    50,
    (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404),
    (0.14, 55 / 38),
    (0.15, 55 / 30),
    (0.20, 55 / 27),
)
WAN_14B_CHANGE_RETAINED = _retained(
    "Wan2.1-T2V-14B",
    50,
    (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525),
    (0.10, 1829 / 915),
    (0.20, 1829 / 578),
)
WAN_I2V_480_CHANGE = _wan(
    "Wan2.1-I2V-14B-480P",
    40,
    (-302.331670, 223.948934, -52.5463970, 5.87348440, -0.201973289),
    (0.13, 735 / 464),
    (0.19, 735 / 372),
    (0.26, 735 / 300),
)
WAN_I2V_480_CHANGE_RETAINED = _retained(
    "Wan2.1-I2V-14B-480P",
    40,
    (257151.496, -35422.9917, 1402.86849, -13.5890334, 0.132517977),
    (0.20, 385 / 212),
    (0.30, 385 / 164),
)
WAN_I2V_720_CHANGE = _wan(
    "Wan2.1-I2V-14B-720P",
    40,
    (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683),
    (0.18, 29 / 17),
    (0.20, 29 / 15),
    (0.30, 29 / 12),
)
WAN_I2V_720_CHANGE_RETAINED = _retained(
    "Wan2.1-I2V-14B-720P",
    40,
    (8107.05460, 2133.93892, -372.934672, 16.6203073, -0.0417769401),
    (0.20, 903 / 430),
    (0.30, 903 / 340),
)
