"""Block Caching: Eq 6 and Eq 7 against plain loops, alignments against plain least squares and plain gradients, through the host."""

import comfy.model_management
import pytest
import torch
from host_models import BLOCKS, LATENT, BlockCalls, prompt, sample
from pack.cache_core import Branch, CacheError, Place, Schedule
from pack.cache_core import published as p
from pack.cache_core.blockcache import (
    Alignment,
    Profile,
    Rollouts,
    Training,
    align,
    for_reduction,
    refreshes,
    schedule,
)
from pack.cache_core.blockcache import schedule as make_schedule
from pack.cache_core.blockcache.profile import load as load_profile
from pack.cache_core.blockcache.schedule import load as load_schedule
from pack.nodes.adapters import reports
from pack.nodes.adapters.blockcache import Measurement, profiled, student
from pack.nodes.adapters.calibrate import Sampling
from pack.nodes.adapters.host import attach
from pack.nodes.adapters.lessons import Lesson
from test_sites import keys, spread, tokens

pytestmark = pytest.mark.host
STEPS = 8


def sampling(model, family, batch=1, cfg=1.0):
    latent = {"samples": torch.zeros(batch, *LATENT[family])}
    return Sampling(model, prompt(5, 11), prompt(5, 12), latent, STEPS, cfg, "euler", "simple")


def measured(model, family, trajectories=1, branches=False, **kwargs):
    with torch.inference_mode():
        return profiled(sampling(model, family, **kwargs), Measurement("tiny", branches), trajectories, seed=1)


def flat(blocks=3, steps=10, changes=None, macs=None):
    """A profile with the changes [blocks, steps] that are given."""
    given = torch.as_tensor(changes if changes is not None else torch.ones(blocks, steps))
    sigmas = tuple(1 - n / given.shape[1] for n in range(given.shape[1] + 1))
    places = tuple(Place(n) for n in range(len(given)))
    return Profile("flat", places, given[None].float(), sigmas, macs or (100,) * len(given), 100 * len(given) + 50, {})


def held_by_hand(model, family, rows, aligned=None):
    """The latent of a sampling that holds each block's residual by the steps in `rows`, with the host's own block patches."""
    by_hand, step = model.clone(), {"n": -1}

    def held(index, key):
        kept = {}

        def patch(args, extra):
            step["n"] += index == 0
            before = tokens(args, key, family).clone()
            if step["n"] not in rows[index]:
                residual = kept["residual"] if aligned is None else aligned(index, step["n"], kept["residual"])
                return spread(args, before + residual, key, family)
            out = extra["original_block"](args)
            kept["residual"] = tokens(out, key, family) - before
            return out

        return patch

    for index, key in enumerate(keys(family)):
        by_hand.set_model_patch_replace(held(index, key), "dit", *key)
    return sample(by_hand, family, steps=STEPS)


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
    """A schedule of each model, with a block that is computed throughout."""
    return {family: for_reduction(measured(models[family], family), 1.4, front=1) for family in models}


@pytest.fixture
def plan(schedules, family):
    return schedules[family]


def zero(plan, width=128):
    return Alignment("zero", "fitted", plan.cells, torch.zeros(len(plan.cells), 2, width), plan.digest)


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

    def test_an_alignment_of_zero_is_none(self, model, family, plan):
        plain = sample(attach(model, p.block_cache(plan)), family, steps=STEPS, cfg=3.0)
        assert torch.equal(plain, sample(attach(model, p.block_cache(plan, zero(plan))), family, steps=STEPS, cfg=3.0))

    def test_an_alignment_scales_and_shifts_the_held_residual(self, model, family, plan):
        rows = torch.randn(len(plan.cells), 2, 128, generator=torch.Generator().manual_seed(0)) * 0.1
        known = Alignment("random", "fitted", plan.cells, rows, plan.digest)
        places = {cell: row for cell, row in zip(plan.cells, rows, strict=True)}

        def aligned(block, step, residual):
            scale, shift = places[block, plan.sigmas[step]]
            return residual * (1 + scale) + shift

        found = sample(attach(model, p.block_cache(plan, known)), family, steps=STEPS)
        torch.testing.assert_close(found, held_by_hand(model, family, plan.computed, aligned), rtol=1e-4, atol=1e-5)

    def test_a_model_with_other_blocks_is_refused(self, model):
        with pytest.raises(CacheError, match="of a model with 5 blocks"):
            student(model, make_schedule(flat(5), 2.0), Lesson(Rollouts(), (0,)))


class TestAlignments:
    def test_between_its_levels_a_row_is_interpolated_and_beyond_them_kept(self):
        rows = torch.tensor([[[0.0], [1.0]], [[1.0], [3.0]]])
        known = Alignment("line", "fitted", ((2, 0.8), (2, 0.4)), rows)
        at = lambda sigma: [float(part) for part in known.at(2, sigma, torch.device("cpu"))]  # noqa: E731
        assert at(0.8) == [0.0, 1.0]
        assert at(0.4) == [1.0, 3.0]
        assert at(0.7) == pytest.approx([0.25, 1.5])
        assert (at(0.9), at(0.1)) == ([0.0, 1.0], [1.0, 3.0])
        assert known.at(1, 0.8, torch.device("cpu")) is None

    def test_a_cells_fit_is_least_squares(self):
        generator = torch.Generator().manual_seed(0)
        held = torch.randn(2, 50, 4, generator=generator)
        wanted = held * torch.tensor([1.5, 1.0, 0.2, -1.0]) + torch.tensor([0.0, 2.0, -1.0, 0.5])
        sums = align.Sums(4, held.device)
        for part in range(2):
            sums.add(held[part : part + 1], wanted[part : part + 1])
        scale, shift = sums.solve(ridge=0.0)
        torch.testing.assert_close(scale, torch.tensor([0.5, 0.0, -0.8, -2.0]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(shift, torch.tensor([0.0, 2.0, -1.0, 0.5]), rtol=1e-4, atol=1e-5)
        assert sums.solve(ridge=10.0).abs().max() < sums.solve(ridge=0.0).abs().max()

    @pytest.mark.parametrize("cfg", [1.0, 3.0])
    def test_the_fit_leads_the_tokens_nearer_to_the_teachers(self, model, family, cfg):
        plan, pupil = for_reduction(measured(model, family, cfg=cfg), 1.4), Rollouts()
        taught = student(model, plan, Lesson(pupil, plan.cached))
        with torch.inference_mode():
            sampling(model, family, 2, cfg).run(taught, 1, 0, Bar())
        known = pupil.alignment("tiny", plan.digest, {})
        assert known.cells == plan.cells
        uncached, plain, fitted = (
            sample(each, family, steps=STEPS, cfg=cfg, seed=1, batch=2)
            for each in (model, attach(model, p.block_cache(plan)), attach(model, p.block_cache(plan, known)))
        )
        assert (fitted - uncached).norm() < 0.95 * (plain - uncached).norm()

    def test_a_file_gives_back_what_was_saved(self, tmp_path, plan):
        known = Alignment("x", "trained", plan.cells, torch.randn(len(plan.cells), 2, 8).bfloat16().float(), plan.digest, {"seconds": 3})
        known.save(tmp_path / "c.safetensors")
        found = align.load(tmp_path / "c.safetensors")
        assert torch.equal(found.rows, known.rows)
        assert (found.cells, found.kind, found.schedule, found.about) == (known.cells, known.kind, known.schedule, known.about)


class TestTraining:
    def trained(self, model, family, plan, pupil, seeds, checkpointed=True):
        taught = student(model, plan, Lesson(pupil, plan.cached, checkpointed))
        with torch.inference_mode():
            for seed in seeds:
                sampling(model, family).run(taught, seed, 0, Bar())
                pupil.finish(1.0)
        return pupil

    def test_it_starts_as_plain_caching_and_its_loss_falls(self, model, family, plan):
        before = {name: value.clone() for name, value in model.model.diffusion_model.named_parameters()}
        pupil = self.trained(model, family, plan, Training(plan.cached, 1e-3), [1] * 12)
        assert pupil.losses[-1] < 0.9 * pupil.losses[0]
        known = pupil.alignment("tiny", plan, {})
        assert (known.kind, known.cells) == ("trained", plan.cells)
        after = dict(model.model.diffusion_model.named_parameters())
        assert all(torch.equal(before[name], after[name]) for name in before), "nothing but scale and shift is trained"
        assert not any(value.requires_grad or value.grad is not None for value in after.values())
        assert comfy.model_management.in_training is False

    def test_checkpointing_gives_the_same_gradients(self, model, family, plan):
        one, other = (self.trained(model, family, plan, Training(plan.cached), [1], way) for way in (True, False))
        torch.testing.assert_close(one.layers, other.layers, rtol=1e-3, atol=1e-6)
        assert one.layers.abs().sum() > 0

    def test_a_stopped_training_goes_on(self, model, family, plan, tmp_path):
        whole = self.trained(model, family, plan, Training(plan.cached, schedule="a"), [1, 2])
        part = self.trained(model, family, plan, Training(plan.cached, schedule="a"), [1])
        part.save(tmp_path / "t.training")
        resumed = Training(plan.cached, schedule="a")
        resumed.load(tmp_path / "t.training")
        self.trained(model, family, plan, resumed, [2])
        assert (resumed.rollouts, resumed.seconds) == (2, 2.0)
        assert resumed.losses == pytest.approx(whole.losses, rel=1e-4)
        torch.testing.assert_close(resumed.layers, whole.layers, rtol=1e-3, atol=1e-6)
        with pytest.raises(CacheError, match="training of another schedule"):
            Training(plan.cached, schedule="b").load(tmp_path / "t.training")

    def test_a_loss_that_is_no_number_ends_it(self):
        with pytest.raises(CacheError, match="learning rate below"):
            Training((0,)).learn(torch.tensor([float("inf")], requires_grad=True), lambda: torch.zeros(1))


class Bar:
    """A progress bar that nobody looks at."""

    def update(self, steps):
        pass
