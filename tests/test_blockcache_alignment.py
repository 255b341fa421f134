"""Block Caching's scale and shift: against plain least squares and plain gradients, and through the host."""

import comfy.model_management
import pytest
import torch
from blockcache_runs import STEPS, Bar, held_by_hand, measured, sampling, schedules_of
from host_models import sample
from pack.cache_core import CacheError
from pack.cache_core import published as p
from pack.cache_core.blockcache import Alignment, Rollouts, Training, align, for_reduction
from pack.cache_core.blockcache import train as training
from pack.nodes.adapters.blockcache import student
from pack.nodes.adapters.host import attach
from pack.nodes.adapters.lessons import Lesson

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def schedules(models):
    return schedules_of(models)


@pytest.fixture
def plan(schedules, family):
    return schedules[family]


def zero(plan, width=128):
    return Alignment("zero", "fitted", plan.cells, torch.zeros(len(plan.cells), 2, width), plan.digest)


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

    def test_a_channel_keeps_the_part_of_its_fit_that_helped_where_it_was_not_made(self):
        held = torch.randn(1, 50, 4, generator=torch.Generator().manual_seed(0))
        sums = align.Sums(4, held.device)
        sums.add(held, held * 1.5 + 1.0)
        assert torch.equal(sums.trusted(), sums.solve()), "nothing was tried yet"
        kept = torch.tensor([1.0, 0.25, 0.0, 0.0])  # of the correction, none in the third; the last wants its opposite
        wanted = held + (held * 0.5 + 1.0) * torch.tensor([2.0, 0.25, 0.0, -1.0])
        sums.check(torch.tensor([[0.5] * 4, [1.0] * 4]), held, wanted)
        torch.testing.assert_close(sums.trusted(), sums.solve() * kept, rtol=1e-4, atol=1e-5)

    def test_corrections_are_tried_on_roll_outs_that_they_were_not_made_from(self):
        pupil, generator = Rollouts(), torch.Generator().manual_seed(0)
        for wanted in (1.5, 0.5):  # the second one wants the opposite of the first
            for sigma in (0.8, 0.4):
                held = torch.randn(1, 5, 2, generator=generator)
                pupil.targets = {0: [wanted * held]}
                pupil.align(0, sigma, torch.zeros_like(held), held)
        assert pupil.alignment("x", "", {}).rows.abs().max() == 0.0

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

    def test_the_average_of_the_layers_is_handed_on_later_ones_weighing_more(self, model, family, plan):
        pupil, seen = Training(plan.cached, 1e-3), []
        for seed in (1, 2, 3):
            self.trained(model, family, plan, pupil, [seed])
            seen.append(pupil.layers.detach().clone())
        torch.testing.assert_close(pupil.average, (seen[0] + 4 * seen[1] + 10 * seen[2]) / 15)  # by the weights (t + 2 over 3)
        block, sigma = plan.cells[0]
        layer = pupil.average[plan.cached.index(block)]
        expected = layer[..., :-1] @ training.embedding(sigma) + layer[..., -1]
        torch.testing.assert_close(pupil.alignment("x", plan, {}).rows[0], expected)

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
        torch.testing.assert_close(resumed.average, whole.average, rtol=1e-3, atol=1e-6)

    def test_a_training_of_an_older_encore_goes_on_without_an_average(self, model, family, plan, tmp_path):
        pupil = self.trained(model, family, plan, Training(plan.cached, schedule="a"), [1])
        tensors = {"layers": pupil.layers, "losses": torch.tensor(pupil.losses, dtype=torch.float64)}
        header = {"blocks": plan.cached, "schedule": "a", "rollouts": 1, "seconds": 1.0}
        align.file.write(tmp_path / "t.training", training.KIND, tensors, header)
        resumed = Training(plan.cached, schedule="a")
        resumed.load(tmp_path / "t.training")
        assert torch.equal(resumed.average, pupil.layers)
        with pytest.raises(CacheError, match="training of another schedule"):
            Training(plan.cached, schedule="b").load(tmp_path / "t.training")

    def test_a_loaded_training_goes_where_what_it_aligns_is(self, model, family, plan, tmp_path):
        path = tmp_path / "t.training"
        self.trained(model, family, plan, Training(plan.cached), [1]).save(path)
        pupil, held = Training(plan.cached), torch.ones(1, 4, 128)
        pupil.load(path)
        before = pupil.layers
        pupil.align(plan.cached[0], 0.5, held, held)
        assert pupil.layers is before, "nothing moves on one device"
        found = pupil.align(plan.cached[0], 0.5, held.to("meta"), held.to("meta"))
        (state,) = pupil._optimiser.state_dict()["state"].values()
        tensors = [found, pupil.layers, pupil.average, state["exp_avg"], state["exp_avg_sq"]]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert pupil._optimiser.param_groups[0]["params"][0] is pupil.layers
        assert pupil.layers.requires_grad
        assert float(state["step"]) == 1.0

    def test_a_training_of_another_model_is_refused(self, model, family, plan, tmp_path):
        path, ours = tmp_path / "t.training", {"network": "Flux", "weights": "a"}
        self.trained(model, family, plan, Training(plan.cached, model=ours), [1]).save(path)
        with pytest.raises(CacheError, match=r"t\.training holds .* another model: it differs in weights\. Choose another"):
            Training(plan.cached, model=ours | {"weights": "b"}).load(path)
        for same in (ours, None):
            pupil = Training(plan.cached, model=same)
            pupil.load(path)
            assert pupil.rollouts == 1

    def test_a_loss_that_is_no_number_ends_it(self):
        with pytest.raises(CacheError, match="learning rate below"):
            Training((0,)).learn(torch.tensor([float("inf")], requires_grad=True), lambda: torch.zeros(1))
