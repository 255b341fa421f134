"""Block Caching: the profile of Eq 6 and the schedule of Eq 7 against plain loops, and the cached sampling in the host."""

import pytest
import torch
from blockcache_runs import STEPS, Bar, flat, held_by_hand, measured, sampling, schedules_of
from host_models import BLOCKS, BlockCalls, sample
from pack.cache_core import Branch, CacheError, Schedule
from pack.cache_core import published as p
from pack.cache_core.blockcache import Rollouts, for_reduction, refreshes, schedule
from pack.cache_core.blockcache import schedule as make_schedule
from pack.cache_core.blockcache.profile import load as load_profile
from pack.cache_core.blockcache.schedule import load as load_schedule
from pack.nodes.adapters import reports
from pack.nodes.adapters.blockcache import student
from pack.nodes.adapters.host import attach
from pack.nodes.adapters.lessons import Lesson
from test_sites import keys, tokens

pytestmark = pytest.mark.host


class TestProfile:
    @pytest.mark.parametrize("batch", [1, 2])
    def test_it_is_eq_6_of_every_block(self, model, family, batch):
        by_hand, found = model.clone(), []

        def spy(index, key):
            kept = []

            def patch(args, extra):
                before = tokens(args, key, family).clone()
                out = extra["original_block"](args)
                kept.append(tokens(out, key, family) - before)
                return out

            found.append(kept)
            return patch

        for index, key in enumerate(keys(family)):
            by_hand.set_model_patch_replace(spy(index, key), "dit", *key)
        with torch.inference_mode():
            sampling(by_hand, family, batch).run(by_hand, 1, 0, Bar())
        expected = torch.zeros(batch, BLOCKS[family], STEPS)
        for block, residuals in enumerate(found):
            for step in range(1, STEPS):
                for row in range(batch):
                    gap = (residuals[step][row] - residuals[step - 1][row]).abs().sum()
                    expected[row, block, step] = gap / residuals[step][row].abs().sum()
        made = measured(model, family, batch=batch)
        torch.testing.assert_close(made.changes, expected, rtol=1e-4, atol=1e-6)
        assert (made.blocks, made.steps, made.trajectories) == (BLOCKS[family], STEPS, batch)

    def test_both_conditions_count_and_trajectories_are_averaged(self, model, family):
        made = measured(model, family, trajectories=2, cfg=3.0)
        one = measured(model, family, trajectories=1, cfg=3.0)
        assert made.trajectories == 2
        torch.testing.assert_close(made.first(1).changes, one.changes)
        torch.testing.assert_close(made.mean, made.changes.sum(0) / 2)
        assert not torch.allclose(one.changes, measured(model, family, trajectories=1).changes, rtol=1e-3)

    def test_branches_come_beside_the_blocks(self, model, family):
        made = measured(model, family, branches=True)
        assert made.blocks == BLOCKS[family]
        kinds = {place.branch for place in made.places} - {None}
        assert kinds == ({Branch.ATTENTION, Branch.MLP} if family == "flux" else set(Branch))
        assert (made.changes[:, :, 1:] > 0).all()

    def test_it_counts_what_each_block_takes(self, model, family):
        made = measured(model, family)
        assert all(count > 0 for count in made.macs)
        assert sum(made.macs) < made.whole < 1.5 * sum(made.macs)

    def test_a_file_gives_back_what_was_saved(self, tmp_path):
        known = flat(changes=torch.rand(3, 10))
        known.save(tmp_path / "a.safetensors")
        found = load_profile(tmp_path / "a.safetensors")
        assert torch.equal(found.changes, known.changes)
        assert (found.places, found.sigmas, found.macs, found.whole) == (known.places, known.sigmas, known.macs, known.whole)
        with pytest.raises(CacheError, match="holds block profile, and a block schedule was expected"):
            load_schedule(tmp_path / "a.safetensors")
        (tmp_path / "a.safetensors").write_bytes(b"no")
        with pytest.raises(CacheError, match="damaged"):
            load_profile(tmp_path / "a.safetensors")


def by_the_paper(changes, delta):
    """Eq 7, each recomputation looked for from the last: sum from t_a to t_b - 1 <= delta < sum from t_a to t_b."""
    last, computed = 0, [0]
    while True:
        later = [t for t in range(last + 1, len(changes)) if sum(changes[last : t + 1]) > delta]
        if not later:
            return frozenset(computed)
        last = later[0]
        computed.append(last)


class TestSchedule:
    @pytest.mark.parametrize("delta", [0.05, 0.3, 0.8, 2.0, 100.0])
    def test_it_is_eq_7(self, delta):
        changes = torch.rand(40, generator=torch.Generator().manual_seed(3)).tolist()
        assert refreshes([0.0, *changes], delta) == by_the_paper([0.0, *changes], delta)

    def test_delta_0_computes_everything_even_where_nothing_changes(self):
        assert refreshes([0.0, 0.0, 0.1, 0.0], 0.0) == frozenset(range(4))

    def test_blocks_that_change_more_are_computed_more_often_and_blocks_left_out_always(self):
        known = flat(changes=[[0.0] + [0.05] * 19, [0.0] + [0.2] * 19, [0.0] + [0.05] * 19])
        found = schedule(known, 0.5, front=1)
        assert found.computed[0] == frozenset(range(20))
        assert len(found.computed[1]) > len(found.computed[2])
        assert found.cached == (1, 2)

    @pytest.mark.parametrize("wanted", [1.2, 1.5, 2.0])
    def test_bisection_finds_the_smallest_threshold_for_a_saving(self, wanted):
        known = flat(changes=torch.rand(4, 50, generator=torch.Generator().manual_seed(1)) * 0.1)
        found = for_reduction(known, wanted)
        assert found.reduction >= wanted
        assert make_schedule(known, 0.999 * found.delta).reduction < wanted
        with pytest.raises(CacheError, match="Leave out fewer"):
            for_reduction(known, 100.0)

    def test_a_schedule_carries_over_to_other_steps(self):
        found = for_reduction(flat(changes=torch.rand(3, 40) * 0.1), 1.6)
        rows = found.at(Schedule(tuple(1 - n / 20 for n in range(21))))
        assert [len(row) for row in rows] == [round(len(steps) / 2) for steps in found.computed]
        assert all(0 in row for row in rows)
        assert found.at(Schedule(found.sigmas)) == found.computed

    def test_a_file_gives_back_what_was_saved(self, tmp_path):
        found = for_reduction(flat(changes=torch.rand(3, 12) * 0.1), 1.5)
        found.save(tmp_path / "b.safetensors")
        assert load_schedule(tmp_path / "b.safetensors") == found
        assert found.unlike(found) == 0.0


@pytest.fixture(scope="module")
def schedules(models):
    return schedules_of(models)


@pytest.fixture
def plan(schedules, family):
    return schedules[family]


class TestCaching:
    @pytest.mark.parametrize("cfg", [1.0, 3.0])
    def test_a_threshold_of_0_is_bit_identical(self, model, family, cfg):
        nothing = make_schedule(measured(model, family), 0.0)
        found = sample(attach(model, p.block_cache(nothing)), family, steps=STEPS, cfg=cfg, batch=2)
        assert torch.equal(found, sample(model, family, steps=STEPS, cfg=cfg, batch=2))

    def test_blocks_run_at_their_steps_and_hold_their_residual_between(self, model, family, plan):
        with BlockCalls(model) as counted:
            found = sample(attach(model, p.block_cache(plan)), family, steps=STEPS)
        assert list(counted.calls.values()) == [len(steps) for steps in plan.computed]
        assert torch.equal(found, held_by_hand(model, family, plan.computed))

    @pytest.mark.parametrize("cfg", [1.0, 3.0])
    def test_the_expected_macs_are_the_counted_ones(self, model, family, cfg):
        plan = for_reduction(measured(model, family, cfg=cfg), 1.4)
        latent = sample(attach(model, p.block_cache(plan)), family, steps=STEPS, cfg=cfg)
        ledger = reports.find(latent)[0]
        assert ledger.macs == plan.expected_macs
        assert ledger.macs_if_computed == plan.whole * STEPS

    def test_a_model_with_other_blocks_is_refused(self, model):
        with pytest.raises(CacheError, match="of a model with 5 blocks"):
            student(model, make_schedule(flat(5), 2.0), Lesson(Rollouts(), (0,)))
