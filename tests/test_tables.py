"""Published numbers, as they were published."""

import pytest
from pack.cache_core import Schedule, tables
from pack.cache_core.masks import rescale

MASKS = [mask for name, found in vars(tables).items() if name.endswith(("LEMICA", "GOLDEN")) or name.startswith("SCM_") for mask in found]
MASKS = [mask for mask in MASKS if not isinstance(mask, str)]
CURVES = [value for value in vars(tables).values() if isinstance(value, tables.Curve)]
POLYNOMIALS = [value for value in vars(tables).values() if isinstance(value, tables.Polynomial)]


def digits(mask):
    return "".join("1" if step in mask.computed else "0" for step in range(mask.total))


class TestMasks:
    @pytest.mark.parametrize("mask", MASKS, ids=lambda mask: f"{mask.model} {mask.name}")
    def test_on_its_own_grid_a_mask_comes_back_unchanged(self, mask):
        grid = Schedule(tuple(mask.sigma(step) for step in range(mask.total + 1)))
        assert rescale(mask, grid, len(mask.computed)) == frozenset(mask.computed)
        assert mask.computed[0] == 0
        assert list(mask.computed) == sorted(set(mask.computed))

    def test_lemica(self):
        assert [len(mask.computed) for mask in tables.WAN_14B_LEMICA] == [25, 20, 17, 14]
        assert [len(mask.computed) for mask in tables.WAN_I2V_LEMICA] == [25, 20, 17, 14]
        assert {mask.total for mask in tables.WAN_I2V_LEMICA} == {40}
        assert tables.WAN_I2V_LEMICA[3].computed == (0, 1, 2, 3, 4, 6, 8, 11, 15, 22, 29, 34, 37, 39)
        assert tables.WAN_14B_LEMICA[2].computed == (0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 22, 29, 36, 43, 47, 49)

    def test_cache_dit(self):
        assert [digits(mask) for mask in tables.SCM_PRINTED] == [
            "1111111101110011100110011000",
            "1111110110001100011000110001",
            "1111110100010000100000100000",
            "111101000010000010000001000000",
        ]
        assert [mask.total for mask in tables.SCM_CODE] == [28] * 4
        assert [len(mask.computed) for mask in tables.SCM_CODE] == [18, 15, 11, 8]
        for mask, computed, cached in zip(tables.SCM_CODE, COMPUTED, CACHED, strict=True):
            bins = [digit * n for pair in zip(computed, [*cached, 0], strict=True) for digit, n in zip("10", pair, strict=True)]
            assert digits(mask) == "".join(bins)


# The bins of cache-dit's `steps_mask`: slow, medium, fast, ultra.
COMPUTED = [[8, 3, 3, 2, 1, 1], [6, 2, 2, 2, 2, 1], [6, 1, 1, 1, 1, 1], [4, 1, 1, 1, 1]]
CACHED = [[1, 2, 2, 2, 3], [1, 3, 3, 3, 3], [1, 3, 4, 5, 4], [2, 5, 6, 7]]


class TestCurves:
    def test_lengths(self):
        assert [curve.total for curve in CURVES] == [28, *[50] * 4, *[40] * 4]
        assert all(curve.ratios[0] == 1.0 for curve in CURVES)

    def test_values(self):
        assert tables.FLUX_MAGNITUDE.ratios[:4] == (1.0, 1.21094, 1.11719, 1.07812)
        assert tables.FLUX_MAGNITUDE.ratios[11] == 0.98047
        assert tables.FLUX_MAGNITUDE.ratios[-3:] == (0.95703, 0.93359, 0.89062)
        assert tables.WAN_1B_MAGNITUDE.ratios[1:4] == (1.0124, 1.00166, 0.99791)
        assert tables.WAN_1B_MAGNITUDE.ratios[-2:] == (0.86821, 0.81838)
        assert tables.WAN_1B_MAGNITUDE_UNCOND.ratios[1:3] == (1.02213, 1.0041)
        assert tables.WAN_14B_MAGNITUDE.ratios[1:3] == (1.02504, 1.00025)
        assert tables.WAN_14B_MAGNITUDE.ratios[25] == 0.99216
        assert tables.WAN_14B_MAGNITUDE_UNCOND.ratios[-1] == 0.86189
        assert tables.WAN_I2V_480_MAGNITUDE.ratios[-1] == 0.92617
        assert tables.WAN_I2V_720_MAGNITUDE_UNCOND.ratios[1] == 0.99498

    def test_sums_of_all_the_digits(self):
        sums = {"FLUX": 28.38278, "Wan 14B cond": 49.01578, "Wan 14B uncond": 49.02362, "Wan 1.3B cond": 48.98687}
        sums |= {"Wan 1.3B uncond": 49.00448, "Wan I2V 480P cond": 38.99195, "Wan I2V 480P uncond": 38.99595}
        sums |= {"Wan I2V 720P cond": 39.0571, "Wan I2V 720P uncond": 39.05895}
        assert {curve.name.removeprefix("MagCache "): round(sum(curve.ratios), 5) for curve in CURVES} == sums

    def test_settings(self):
        flux, wan = tables.FLUX_MAGNITUDE, tables.WAN_1B_MAGNITUDE
        assert (flux.threshold, flux.longest, flux.retained, flux.always) == (0.24, 5, 0.1, (11,))
        assert (wan.threshold, wan.longest, wan.retained, wan.always) == (0.12, 2, 0.2, ())

    @pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
    def test_whole_schedules_are_read_by_number_and_parts_by_noise_level(self, curve):
        grid = [curve.sigma(step) for step in range(curve.total + 1)]
        whole = Schedule(tuple(grid))
        assert [tables.place(curve, whole, n) for n in range(curve.total)] == list(range(curve.total))
        fewer = Schedule((1.0, *(0.8 - 0.04 * n for n in range(19)), 0.0))
        nearest = [round(n * (curve.total - 1) / 19) for n in range(20)]
        assert [tables.place(curve, fewer, n) for n in range(20)] == nearest
        late, early = Schedule(tuple(grid[10:])), Schedule(tuple(grid[:11]))
        assert [tables.place(curve, late, n) for n in range(curve.total - 10)] == list(range(10, curve.total))
        assert [tables.place(curve, early, n) for n in range(10)] == list(range(10))


class TestPolynomials:
    def test_values(self):
        assert tables.FLUX_CHANGE.coefficients == (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)
        assert tables.FLUX_CHANGE.speeds == ((0.25, 1.5), (0.4, 1.8), (0.6, 2.0), (0.8, 2.25))
        assert tables.WAN_1B_CHANGE.coefficients == (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774)
        assert tables.WAN_1B_CHANGE_RETAINED.coefficients[::4] == (-52186.2437, -0.0499875664)
        assert tables.WAN_14B_CHANGE.coefficients == (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404)
        assert tables.WAN_14B_CHANGE_RETAINED.coefficients == (-303318.725, 49053.7029, -2655.30556, 58.7365115, -0.315583525)
        assert tables.WAN_I2V_480_CHANGE.coefficients[0] == -302.33167
        assert tables.WAN_I2V_720_CHANGE_RETAINED.coefficients[1] == 2133.93892

    def test_all_are_of_degree_four_and_faster_at_higher_thresholds(self):
        assert len(POLYNOMIALS) == 9
        for polynomial in POLYNOMIALS:
            assert len(polynomial.coefficients) == 5
            assert list(polynomial.speeds) == sorted(polynomial.speeds)
            assert [speed for _, speed in polynomial.speeds] == sorted(speed for _, speed in polynomial.speeds)
            assert (polynomial.first, polynomial.last) == ((5, 0) if polynomial.projected else (1, 1))
