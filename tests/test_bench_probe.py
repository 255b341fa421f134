"""The probe's benchmark: what is explained of sequences whose answer is known, and the order of tokens."""

from dataclasses import replace

import pytest
import torch
from pack.bench import probe
from pack.bench.contest import make_course
from pack.bench.progress import Bar
from pack.demo.agreement import DEFAULTS

SIGMAS = tuple(range(12, 0, -1))


def watched(seed, told, gain):
    """Twelve steps of velocities that follow tokens by a fixed matrix, and of two blocks, the second of which knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    tokens = [draw(4, 30, 8) for _ in range(12)]
    velocities = [told * (each @ gain) + (1 - told**2) ** 0.5 * draw(4, 30, 5) * gain.norm(dim=0) for each in tokens]
    return probe.Watched(
        velocities, [[each.half() for each in tokens], [draw(4, 30, 8).half() for _ in range(12)]], tuple(range(12, 0, -1))
    )


@pytest.mark.parametrize("told", [1.0, 0.6, 0.0])
def test_the_share_that_a_block_explains_is_the_one_it_was_made_with(told):
    gain = torch.randn(8, 5, generator=torch.Generator().manual_seed(9))
    known, held_out = watched(0, told, gain), watched(1, told, gain)
    first, second = probe.explained(known, held_out, (0, 1, 2, 6, 9))
    assert first == pytest.approx(told**2, abs=0.12)
    assert second == pytest.approx(0.0, abs=0.12)


def test_a_forecast_finds_the_weights_that_made_a_step():
    values = [torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    values.append(0.5 * values[0] - 2.0 * values[2])
    weights = probe.forecast(values, 3, (0, 2))
    torch.testing.assert_close(weights, torch.tensor([0.5, -2.0], dtype=torch.float64), rtol=1e-4, atol=1e-4)
    assert probe.unforeseen(values, 3, (0, 2), weights).abs().max() < 1e-3


@pytest.mark.host
@pytest.mark.parametrize("family", ["flux", "wan"])
def test_tokens_stand_where_the_network_has_them(family):
    """The last block's tokens, seen through the network's own head, are the velocity: so both are in one order."""
    course, setting = make_course(family, 2, 2), DEFAULTS[family]
    with Bar("probe") as bar:
        bar.expect(course, [setting])
        found = probe.watch(course, replace(setting, steps=4), 0, bar)
    clips = 1 if setting.cfg == 1.0 else 2
    assert len(found.velocities) == len(found.sigmas) == 4
    assert {len(each) for each in found.tokens} == {4}
    tokens, velocity = found.tokens[-1][0].float().flatten(0, 1), found.velocities[0].flatten(0, 1)
    assert tokens.shape[0] == velocity.shape[0]
    assert tokens.shape[1] % clips == 0
    here, elsewhere = (fit(tokens, goal) for goal in (velocity, velocity.roll(5, 0)))
    assert here < 0.5 * elsewhere


def fit(tokens, goal):
    """Share of `goal` that a linear map of normalised tokens leaves."""
    seen = torch.cat([torch.nn.functional.layer_norm(tokens, tokens.shape[1:]), torch.ones(len(tokens), 1)], 1).double()
    gains = torch.linalg.solve(seen.T @ seen + 1e-2 * len(seen) * torch.eye(seen.shape[1]), seen.T @ goal.double())
    return float((goal - seen @ gains).square().sum() / goal.square().sum())
