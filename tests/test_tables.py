"""Published numbers, as they were published."""

import pytest
from pack.cache_core import Probe, Schedule, tables
from pack.cache_core.masks import rescale

MASKS = [mask for name, found in vars(tables).items() if name.endswith(("LEMICA", "GOLDEN")) or name.startswith("SCM_") for mask in found]
MASKS = [mask for mask in MASKS if not isinstance(mask, str)]
CURVES = [value for value in vars(tables).values() if isinstance(value, tables.Curve)]
POLYNOMIALS = [value for value in vars(tables).values() if isinstance(value, tables.Polynomial)]


def digits(mask):
    return "".join("1" if step in mask.computed else "0" for step in range(mask.total))


def spread(text):
    """The steps that "0-2,5" stands for."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


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

    def test_golden_paths(self):
        names = {
            "budcache": "BudCache",
            "meancache": "MeanCache",
            "dpcache": "DPCache",
            "seacache_top1": "SeaCache",
            "seacache": "SeaCache",
        }
        names |= {"shared": "shared", "tea": "TeaCache", "sen": "SenCache"}
        found = {(mask.model, mask.name): digits(mask) for mask in (*tables.FLUX_GOLDEN, *tables.WAN_GOLDEN)}
        models = {"FLUX": "FLUX.1-dev", "Wan1.3B": "Wan2.1-T2V-1.3B"}
        assert found == {
            (models[model], f"{names[method]} {50 - count} of 50"): cached.translate(str.maketrans("01", "10"))
            for model, count, method, cached in GOLDEN_PATHS
        }

    def test_lemica_lists_of_flux_and_small_wan(self):
        flux = ["0-10,12,15,18,20,25,30,35,39,42,44-49", "0-7,9,12,15,19,24,31,38,43,46-49", "0-5,7,10,15,20,27,34,41,47,49"]
        flux += ["0,1,3,7,14,21,28,35,42,49"]
        wan = ["0-12,14,16,18,21,24,29,35,40,44,47-49", "0-9,11,13,16,20,26,33,40,45,48,49", "0-8,10,13,18,25,32,39,46,49"]
        wan += ["0-5,7,10,16,23,30,37,44,49"]
        assert [mask.computed for mask in tables.FLUX_LEMICA] == [tuple(spread(text)) for text in flux]
        assert [mask.computed for mask in tables.WAN_LEMICA] == [tuple(spread(text)) for text in wan]

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


# github.com/nanguoyu/Golden-Path-Hypothesis: model, cached steps, method, 1 = cached.
GOLDEN_PATHS = [
    ("FLUX", 29, "budcache", "00001000111010010011011011110111011110111011010110"),
    ("FLUX", 29, "meancache", "00000000010101101101110111011101111011110111011010"),
    ("FLUX", 29, "dpcache", "00001010101101101110101101101101101101101101101010"),
    ("FLUX", 29, "seacache_top1", "00000001010101101101101110111011101110111011101100"),
    ("FLUX", 37, "budcache", "00000101111011101111101111111011111111101111101110"),
    ("FLUX", 37, "meancache", "00000101101110111101111110111111110111111110111110"),
    ("FLUX", 41, "budcache", "00010110111110111111011111111111111111101111111110"),
    ("Wan1.3B", 29, "shared", "00010110101101101011010110110101101011011010110110"),
    ("Wan1.3B", 29, "budcache", "00000100101101111011101100111101110110111010101010"),
    ("Wan1.3B", 29, "meancache", "00000000000010110110111011110111101111101111101110"),
    ("Wan1.3B", 29, "seacache", "00000000101010101101101110111011111011111011101100"),
    ("Wan1.3B", 29, "tea", "00000101101101110111101111011101110110101010101000"),
    ("Wan1.3B", 29, "sen", "00000000001110111101111110111111011110111011010000"),
    ("Wan1.3B", 37, "budcache", "00000100110110111111111101111111111101111111101110"),
    ("Wan1.3B", 37, "meancache", "00000001011101111101111111101111111111011111111110"),
]


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
            retained = "ret_steps" in polynomial.name
            assert (polynomial.first, polynomial.last) == ((5, 0) if retained else (1, 1))
            assert (polynomial.probe is Probe.EMBEDDING) == ("Wan" in polynomial.model and not retained)


class TestModels:
    def test_every_table_is_of_a_model_that_can_be_told_apart(self):
        assert {table.model for table in (*MASKS, *CURVES, *POLYNOMIALS)} <= set(tables.MODELS)

    @pytest.mark.parametrize("name", tables.MODELS)
    def test_a_model_is_closest_to_itself(self, name):
        found, same = tables.closest(tables.MODELS[name], tables.MODELS)
        assert same
        assert tables.MODELS[found] == tables.MODELS[name]

    def test_family_counts_before_channels_and_channels_before_width(self):
        names = ["FLUX.1-dev", "Wan2.1-T2V-1.3B", "Wan2.1-T2V-14B", "Wan2.1-I2V-14B"]
        assert tables.closest(tables.Network("wan", 3072, 57, 16), names) == ("Wan2.1-T2V-14B", False)
        assert tables.closest(tables.Network("wan", 1536, 30, 36), names) == ("Wan2.1-I2V-14B", False)
        assert tables.closest(tables.Network("wan", 2000, 30, 48), names) == ("Wan2.1-T2V-1.3B", False)
        assert tables.closest(tables.Network("other"), names) == ("FLUX.1-dev", False)
