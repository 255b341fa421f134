"""The weighing of an alignment at the end of whole samplings: against plain loops, on samplings whose parts add up."""

import pytest
import torch
from pack.cache_core.blockcache import Alignment, weigh, weighed

SIGMAS = (0.9, 0.7, 0.5, 0.3)


def made(blocks=2, sigmas=SIGMAS):
    cells = tuple((block, sigma) for block in range(blocks) for sigma in sigmas)
    return Alignment("x", "fitted", cells, torch.ones(len(cells), 2, 3), about={"seconds": 3})


class Sampler:
    """Samplings of B prompts that end at `plain` plus what each cell does times how much of it is left in its rows."""

    def __init__(self, known, prompts=6, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.plain = torch.randn(prompts, 5, 8, generator=generator)
        self.effects = torch.randn(len(known.cells), prompts, 5, 8, generator=generator)
        self.seen = []

    def end(self, amounts):
        return self.plain + torch.einsum("c,cbxy->bxy", torch.as_tensor(amounts).float(), self.effects)

    def __call__(self, known):
        self.seen.append(known.rows[:, 0, 0].tolist())
        return self.end(self.seen[-1])


class TestWeighing:
    def test_gains_lead_the_end_to_the_uncached_one(self):
        known = made(sigmas=SIGMAS[:3])  # each cell is a part
        cached, wanted = Sampler(known), torch.tensor([2.0, -0.5, 1.0, 0.0, 0.3, 1.7])
        found = weighed(known, cached.end(wanted), cached)
        torch.testing.assert_close(found.rows[:, 1, 2], wanted, rtol=0.02, atol=0.02)
        assert found.about["gains"] == pytest.approx(found.rows[:, 0, 0].tolist(), abs=1e-3)
        assert found.about["seconds"] == 3
        assert cached.seen[0] == [1.0] * 6
        assert cached.seen[1] == [0.0] * 6
        assert len(cached.seen) + 1 <= weigh.TRIALS

    def test_what_to_add_does_best_for_prompts_left_out(self):
        generator = torch.Generator().manual_seed(1)
        effects, missing = torch.randn(5, 3, 7, generator=generator).double(), torch.randn(5, 7, generator=generator).double()
        missing += 0.7 * effects[:, 1]

        def solved(chosen, ridge):
            normal = sum(effects[n] @ effects[n].T for n in chosen)
            against = sum(effects[n] @ missing[n] for n in chosen)
            return torch.linalg.solve(normal + ridge * normal.diagonal().mean() * torch.eye(3).double(), against)

        scores = {None: missing.square().sum(1).log().mean()}
        for ridge in weigh.RIDGES:
            errors = [(missing[n] - solved([m for m in range(5) if m != n], ridge) @ effects[n]).square().sum() for n in range(5)]
            scores[ridge] = torch.stack(errors).log().mean()
        ridge = min(scores, key=lambda key: scores[key])
        assert ridge is not None, "something is to be gained"
        found = weigh.more(effects @ effects.mT, torch.einsum("bpn,bn->bp", effects, missing), missing.square().sum(1))
        torch.testing.assert_close(found, solved(range(5), ridge))

    def test_it_adds_nothing_where_each_prompt_wants_something_else(self):
        effects = torch.ones(2, 1, 1).double()
        missing = torch.tensor([[1.0], [-1.0]]).double()
        found = weigh.more(effects @ effects.mT, (effects @ missing[..., None]).squeeze(-1), missing.square().sum(1))
        assert found.tolist() == [0.0]

    def test_where_any_of_it_does_harm_it_becomes_zero(self):
        known, uncached = made(), torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
        found = weighed(known, uncached, lambda tried: uncached + 0.1 + 5.0 * bool(tried.rows.any()))
        assert not found.rows.any()
        assert set(found.about["gains"]) == {0.0}

    @pytest.mark.parametrize(("wanted", "kept"), [(3.0, 1.0), (-1.0, 0.0)])
    def test_one_prompt_tells_only_whether_it_helps(self, wanted, kept):
        known = made()
        cached = Sampler(known, prompts=1)
        found = weighed(known, cached.end([wanted] * 8), cached)
        assert torch.equal(found.rows, kept * known.rows)
        assert len(cached.seen) == 2

    def test_parts_are_neighbours_and_every_cell_is_in_one(self):
        known = made(20, tuple(1 - n / 10 for n in range(10)))
        parts = weigh.parts_of(known)
        assert len(parts) == weigh.LAYERS * weigh.BANDS
        assert parts.sum(0).tolist() == [1.0] * len(known.cells)
        for part in parts:
            blocks = sorted({known.cells[n][0] for n in part.nonzero().flatten()})
            assert blocks == list(range(blocks[0], blocks[-1] + 1))
        assert [len(weigh.parts_of(known, prompts)) for prompts in (1, 2, 4, 100)] == [3, 3, 9, 18]
        some = Alignment("x", "fitted", ((0, 0.9), (0, 0.7), (1, 0.5)), torch.ones(3, 2, 3))
        assert weigh.parts_of(some).tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
