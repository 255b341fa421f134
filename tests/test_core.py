"""The core by itself: schedules, masks, history, runs, ledger, counting."""

import pytest
import torch
from pack.cache_core import CacheError, Case, History, Ledger, Placement, ProtocolError, Recipe, RecipeError, Run, Schedule, Site
from pack.cache_core.macs import Meter, form
from pack.cache_core.masks import FEWEST, budget, nearest, rescale
from pack.cache_core.measure import Ratio
from pack.cache_core.policies import Change, Never
from pack.cache_core.predictors import Hold, TwoAnchor
from pack.cache_core.published import encore, masked, measure
from pack.cache_core.tables import FLUX_GOLDEN, FLUX_LEMICA, WAN_GOLDEN, WAN_LEMICA

PUBLISHED = [*FLUX_LEMICA, *WAN_LEMICA, *FLUX_GOLDEN, *WAN_GOLDEN]


def flow(total, shift=3.0):
    times = [1 - n / total for n in range(total + 1)]
    return Schedule(tuple(shift * t / (1 + (shift - 1) * t) for t in times))


class TestSchedule:
    def test_every_sigma_of_a_schedule_belongs_to_its_own_step(self):
        schedule = flow(30)
        assert [schedule.index(sigma) for sigma in schedule.sigmas[:-1]] == list(range(30))

    def test_sigmas_between_two_steps_belong_to_the_earlier_one(self):
        schedule = Schedule((1.0, 0.6, 0.2, 0.0))
        assert [schedule.index(sigma) for sigma in (1.2, 0.8, 0.59, 0.3, 0.1, 0.0)] == [0, 0, 1, 1, 2, 2]

    @pytest.mark.parametrize("sigmas", [(1.0,), (0.1, 0.5, 0.9)])
    def test_too_short_and_rising_schedules_are_refused(self, sigmas):
        with pytest.raises(CacheError, match="never rise"):
            Schedule(sigmas)


class TestMasks:
    @pytest.mark.parametrize("mask", PUBLISHED, ids=lambda mask: f"{mask.model} {mask.name}")
    def test_on_its_own_grid_a_mask_comes_back_unchanged(self, mask):
        grid = Schedule(tuple(mask.sigma(step) for step in range(mask.total + 1)))
        assert rescale(mask, grid, len(mask.computed)) == frozenset(mask.computed)

    @pytest.mark.parametrize("total", [5, 8, 20, 28, 30, 50, 77])
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 1.0])
    def test_any_schedule_gets_exactly_the_wished_number_with_the_first_step(self, total, share):
        wished = max(1, round(total * share))
        for mask in PUBLISHED[::5]:
            found = rescale(mask, flow(total, 1.0), wished)
            assert len(found) == wished
            assert 0 in found
            assert found <= set(range(total))

    def test_more_steps_than_there_are_is_refused(self):
        with pytest.raises(RecipeError, match="21 computed steps do not fit a schedule of 20"):
            rescale(PUBLISHED[0], flow(20), 21)

    def test_budget_stays_below_the_wished_share(self):
        assert [budget(50, speed) for speed in (1.0, 2.0, 3.0, 6.0)] == [50, 24, 16, 8]
        assert [budget(total, 2.0) for total in (4, 8, 20, 28)] == [4, FEWEST, 9, 13]
        assert [budget(100, speed) for speed in (1.01, 1.1, 3.333)] == [99, 90, 30]

    def test_budget_takes_a_share_that_is_whole_but_for_its_rounding_for_whole(self):
        assert 21 / 1.4 > 15
        assert budget(21, 1.4) == 14

    def test_the_nearest_mask_is_nearest_by_ratio(self):
        assert len(nearest(FLUX_LEMICA, 0.24).computed) == 10
        assert len(nearest(FLUX_LEMICA, 0.9).computed) == 26

    def test_published_counts_are_those_of_the_papers(self):
        assert [len(mask.computed) for mask in FLUX_LEMICA] == [26, 20, 15, 10]
        assert [len(mask.computed) for mask in WAN_LEMICA] == [25, 20, 17, 14]
        assert [len(mask.computed) for mask in FLUX_GOLDEN] == [21, 21, 21, 13, 13, 9, 21]
        assert [len(mask.computed) for mask in WAN_GOLDEN] == [21, 21, 21, 13, 13, 21, 21, 21]


class TestRecipe:
    @pytest.mark.parametrize(
        ("parts", "found"),
        [
            ({"policy": Change(0.1), "predictor": Hold()}, "only exists inside the network"),
            ({"policy": Change(0.1), "predictor": Hold(), "site": Site.STACK}, "head is 0"),
            ({"policy": Never(), "predictor": Hold(), "head": 1}, "site stack"),
            ({"policy": Never(), "predictor": Hold(), "site": Site.STACK, "tail": -1}, "from 0"),
            ({"policy": Never(), "predictor": TwoAnchor(), "site": Site.STACK}, "first-block residual"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused_with_the_fix(self, parts, found):
        with pytest.raises(RecipeError, match=found):
            Recipe(**parts)


class TestHistory:
    def test_it_keeps_copies(self):
        history, feature = History(2, Placement()), torch.ones(3)
        history.push(1.0, feature)
        feature.zero_()
        assert history.combine([1.0], feature).tolist() == [1.0, 1.0, 1.0]

    def test_a_second_feature_at_the_newest_time_replaces_the_first(self):
        history = History(2, Placement())
        for time, value in ((1.0, 1.0), (0.5, 2.0), (0.5, 4.0)):
            history.push(time, torch.tensor([value]))
        assert history.times == (1.0, 0.5)
        assert history.combine([1.0, 1.0], torch.zeros(1)).item() == 5.0

    def test_placement_holds_dtype_and_size(self):
        history = History(2, Placement(dtype=torch.bfloat16))
        history.push(1.0, torch.ones(8))
        assert history.nbytes == 16
        assert history.combine([1.0], torch.zeros(1)).dtype is torch.float32


class TestRun:
    @staticmethod
    def play(run, truth, schedule, key="key"):
        """Evaluate `truth` along the schedule; returns what each evaluation answered."""
        answers = []
        for sigma in schedule.sigmas[:-1]:
            x = torch.full((1, 2), 5.0)
            run.begin(sigma, x)
            case = Case(key, x)
            if run.decide([case]):
                answers.append(run.reuse(case))
            else:
                answers.append(torch.full((1, 2), truth(sigma)))
                run.record(case, answers[-1])
            run.end()
        run.ledger.settle()
        return answers

    def test_order_one_reproduces_a_line_and_its_exam_finds_no_error(self):
        schedule = flow(12)
        run = Run(masked(frozenset({0, 1, 6, 11}), 12), schedule)
        answers = self.play(run, lambda s: 2 - 3 * s, schedule)
        assert [a[0, 0].item() for a in answers] == pytest.approx([2 - 3 * s for s in schedule.sigmas[:-1]], abs=1e-5)
        assert run.ledger.computed == 4
        assert [e.step for e in run.ledger.entries if e.computed] == [0, 1, 6, 11]
        assert max(e.error for e in run.ledger.entries[2:] if e.error is not None) < 1e-5

    def test_the_exam_is_the_relative_error_of_the_forecast_that_was_not_needed(self):
        schedule = Schedule((1.0, 0.5, 0.0))
        run = Run(measure(), schedule)
        self.play(run, lambda s: 4.0 if s == 1.0 else 5.0, schedule)
        assert [entry.error for entry in run.ledger.entries] == [None, pytest.approx(0.2)]

    def test_an_exam_of_half_precision_is_weighed_in_single(self):
        whole = torch.randn(4099).bfloat16()
        assert float(Ratio(whole.float() * 0.3, whole)) == pytest.approx(0.3, rel=1e-5)

    def test_a_condition_that_was_not_there_before_is_computed_and_the_reason_given(self):
        schedule = flow(12)
        run, x = Run(masked(frozenset({0, 1}), 12), schedule), torch.zeros(1, 2)
        for key in ("a", "a", "b"):
            run.begin(schedule.sigmas[run.ledger.evaluations], x)
            assert not run.decide([Case(key, x)])
            run.record(Case(key, x), x)
            run.end()
        assert run.ledger.entries[-1].reason == "nothing cached yet"

    def test_conditions_computed_together_are_skipped_together(self):
        schedule = flow(12)
        run, x = Run(masked(frozenset({0}), 12), schedule), torch.zeros(1, 2)
        run.begin(1.0, x)
        run.decide([Case("a", x)])
        run.record(Case("a", x), x)
        run.end()
        run.begin(0.9, x)
        assert not run.decide([Case("a", x), Case("b", x)])

    def test_another_shape_is_another_stream(self):
        schedule = flow(12)
        run = Run(masked(frozenset({0}), 12), schedule)
        run.begin(1.0, torch.zeros(1, 2))
        small, large = Case("a", torch.zeros(1, 2)), Case("a", torch.zeros(2, 2))
        run.decide([small])
        run.record(small, torch.zeros(1, 2))
        run.end()
        run.begin(0.9, torch.zeros(1, 2))
        assert run.decide([small])
        assert not run.decide([large])

    def test_use_out_of_order_is_our_own_fault_and_says_so(self):
        run = Run(encore(), flow(12))
        with pytest.raises(ProtocolError, match="begin"):
            run.end()

    def test_the_ledger_of_a_run_can_be_written_as_json_and_adds_up(self):
        schedule = flow(12)
        run = Run(masked(frozenset({0, 1, 6}), 12), schedule)
        self.play(run, lambda s: s, schedule)
        found = run.ledger.to_dict()
        assert found["evaluations"] == len(found["entries"]) == 12
        assert found["computed"] == sum(entry["computed"] for entry in found["entries"]) == 3
        assert found["reused"] == 9
        assert found["peak_bytes"] == 2 * 2 * 4


def test_numbers_that_json_has_no_word_for_become_null():
    schedule = Schedule((1.0, 0.5, 0.0))
    run = Run(measure(), schedule)
    TestRun.play(run, lambda s: float("nan") if s < 1 else 0.0, schedule)
    assert run.ledger.to_dict()["entries"][-1]["error"] is None


def test_a_cache_of_gigabytes_is_spoken_of_in_the_report():
    told = []
    for size in (2**30 - 1, 27 * 2**30):
        ledger = Ledger("PAB", "", "branch", 50, peak_bytes=size)
        ledger.settle()
        told.append(ledger.notes)
    assert told == [
        [],
        ["The cache kept 27.0 GiB. Where that is too much, keep it in RAM (cache_device cpu), or take a method that keeps less."],
    ]


class TestMacs:
    def test_layers_and_attention_are_counted(self):
        linear, q = torch.nn.Linear(8, 4), torch.randn(1, 2, 6, 16)
        convolution = torch.nn.Conv2d(3, 5, 2)
        meter = Meter(torch.nn.ModuleList([linear, convolution]))
        assert meter.through(lambda: linear(torch.zeros(3, 8)), "linear")[1] == 3 * 8 * 4
        assert meter.through(lambda: convolution(torch.zeros(1, 3, 4, 4)), "convolution")[1] == 5 * 3 * 3 * (3 * 2 * 2)
        assert meter.through(lambda: meter.attention(q, q, q), "attention")[1] == 2 * (2 * 6 * 6 * 16)
        assert not linear._forward_hooks

    def test_a_form_is_counted_once_and_remembered(self):
        linear = torch.nn.Linear(8, 4)
        meter = Meter(linear)
        for rows in (3, 3, 5):
            x = torch.zeros(rows, 8)
            assert meter.through(lambda x=x: linear(x), form([x]))[1] == rows * 32

    def test_a_span_that_is_skipped_is_taken_off_and_a_partial_call_is_not_taken_for_a_whole_one(self):
        linear = torch.nn.Linear(8, 4)
        meter = Meter(linear)

        def call(skip):
            linear(torch.zeros(1, 8))
            if skip:
                return meter.skip("span")
            before = meter.so_far
            linear(torch.zeros(2, 8))
            return meter.note("span", meter.so_far - before)

        made = [meter.through(lambda skip=skip: call(skip), "key")[1] for skip in (True, False, True, False)]
        assert made == [32, 96, 32, 96]

    def test_forms_tell_shapes_apart_and_ignore_values(self):
        assert form({"a": torch.zeros(2), "b": [1, None]}) == form({"b": [7, None], "a": torch.ones(2)})
        assert form([torch.zeros(2)]) != form([torch.zeros(3)])
