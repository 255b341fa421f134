"""The sites COND and UNCOND, called as the host calls them, on a network that is a table of velocities."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from pack.cache_core import Probe, Recipe, Run, Schedule, Site
from pack.cache_core.policies import Change, Mask, Never
from pack.cache_core.predictors import Hold
from pack.nodes.adapters import host, options

pytestmark = pytest.mark.host
FIRST = Mask(frozenset({0}), 3)
SCHEDULE = Schedule((1.0, 0.8, 0.5, 0.0))
P, N = [{"uuid": "positive"}], [{"uuid": "negative"}]
BOTH = [Site.COND, Site.UNCOND]


@dataclass(frozen=True)
class Call:
    """One call for outputs: a velocity for each of `conds`, the frames of the window, and the latent's sides."""

    conds: list
    velocities: list
    frames: tuple | None = None
    side: int = 4


def evaluate(run, n, *calls, x=1.0, sigma=None):
    """The velocities that come out of evaluation `n`, and for each call the conditions that the network was asked for, if any."""
    sigma = SCHEDULE.sigmas[n] if sigma is None else sigma
    found, asked = [], []
    run.begin(sigma, torch.zeros(1))
    for call in calls:
        state, seen = torch.full((1, 2, call.side, call.side), x), []

        def network(model, conds, x, timestep, passed, call=call, seen=seen):
            seen.extend(conds)
            return [torch.zeros_like(x) if cond is None else x - sigma * v for cond, v in zip(conds, call.velocities, strict=True)]

        passed = {options.KEY: run} | ({} if call.frames is None else {"context_window": SimpleNamespace(index_list=list(call.frames))})
        outputs = host._conditions(network, None, call.conds, state, torch.tensor([sigma]), {"transformer_options": passed})
        found.append([round(float(((state - output) / (sigma or 1.0)).mean()), 4) for output in outputs])
        asked.append(seen)
    run.end()
    return found, asked


def run_of(site, policy=FIRST, predictor=None):
    return Run(Recipe(policy, predictor or Hold(), site), SCHEDULE)


@pytest.mark.parametrize("site", BOTH)
def test_a_window_is_forecast_from_itself_whichever_comes_first(site):
    run, early, late = run_of(site), Call([P, N], [1.0, 2.0], (0, 1)), Call([P, N], [3.0, 4.0], (2, 3))
    assert evaluate(run, 0, early, late)[0] == [[1.0, 2.0], [3.0, 4.0]]
    found, asked = evaluate(run, 1, late, early)
    assert found == [[3.0, 4.0], [1.0, 2.0]]
    assert asked == ([[], []] if site is Site.COND else [[P, None]] * 2)


@pytest.mark.parametrize("site", BOTH)
def test_the_second_time_that_conditions_are_asked_for_is_forecast_from_the_second(site):
    """As perturbed guidance does, with another network behind the same conditions."""
    run, plain, perturbed = run_of(site), Call([P, N], [1.0, 2.0]), Call([P, N], [1.0, 7.0])
    evaluate(run, 0, plain, perturbed)
    assert evaluate(run, 1, plain, perturbed)[0] == [[1.0, 2.0], [1.0, 7.0]]


def test_conditions_asked_for_in_another_company_are_forecast_from_that():
    run, together, alone = run_of(Site.COND), Call([P, N], [1.0, 2.0]), Call([P], [5.0])
    evaluate(run, 0, together, alone)
    assert evaluate(run, 1, alone) == ([[5.0]], [[]])


def test_a_call_for_another_size_is_counted_by_itself():
    run, small, large = run_of(Site.COND), Call([P, N], [1.0, 2.0]), Call([P, N], [3.0, 4.0], side=6)
    evaluate(run, 0, small, large)
    assert evaluate(run, 1, large) == ([[3.0, 4.0]], [[]])


def test_one_condition_in_two_places_is_two():
    run, twice = run_of(Site.COND), Call([P, P], [1.0, 2.0])
    evaluate(run, 0, twice)
    assert evaluate(run, 1, twice)[0] == [[1.0, 2.0]]


@pytest.mark.parametrize(("conds", "given", "out"), [([None, N], [0.0, 2.0], [1.0, 2.0]), ([P, None], [1.0, 0.0], [1.0, 1.0])])
def test_a_prompt_left_out_is_nothing_computed_or_forecast(conds, given, out):
    """Nothing is an output of 0: at sigma 0.5 and a latent of 0.5 a velocity of 1."""
    run, call = run_of(Site.COND), Call(conds, given)
    assert evaluate(run, 0, call, x=0.5, sigma=0.5)[0] == [out]
    assert evaluate(run, 1, call, x=0.5, sigma=0.5) == ([out], [[]])


@pytest.mark.parametrize("site", BOTH)
def test_without_any_prompt_the_host_answers(site):
    run = run_of(site)
    assert [evaluate(run, n, Call([None, None], [0.0, 0.0]))[1] for n in (0, 1)] == [[[None, None]]] * 2
    assert [entry.reason for entry in run.ledger.entries] == ["outside of the cache's reach"] * 2


@pytest.mark.parametrize("site", BOTH)
def test_at_noise_level_0_there_is_no_velocity_and_the_network_answers(site):
    run = run_of(site)
    evaluate(run, 0, Call([P, N], [1.0, 2.0]))
    assert evaluate(run, 2, Call([P, N], [3.0, 4.0]), sigma=0.0)[1] == [[P, N]]
    assert run.ledger.entries[-1].reason == "outside of the cache's reach"


def test_the_noise_level_is_read_once_an_evaluation_and_of_a_call_for_another_one_again(monkeypatch):
    run, read, reading = run_of(Site.COND), [], host.scalar
    monkeypatch.setattr(host, "scalar", lambda x: read.append(float(x)) or reading(x))

    def outputs(timestep):
        executor = lambda model, conds, x, timestep, passed: [x - timestep * 2.0]  # noqa: E731
        return host._conditions(executor, None, [P], torch.ones(1, 2, 4, 4), timestep, {"transformer_options": {options.KEY: run}})

    def network(x, timestep, passed):
        own, other = outputs(timestep), outputs(torch.tensor([0.5]))
        return own[0] + other[0]

    host._evaluation(network, torch.ones(1, 2, 4, 4), torch.tensor([0.75]), {"transformer_options": {options.KEY: run}})
    assert read == [0.75, 0.5]
    kept = [stream._history.features[-1] for stream in run._streams.values()]
    assert [float(each.mean()) for each in kept] == [2.0, 2.0]


@pytest.mark.parametrize("site", BOTH)
def test_a_policy_is_shown_the_latent(site):
    run, call = run_of(site, Change(0.5, Probe.LATENT)), Call([P, N], [1.0, 2.0])
    for n, x in enumerate((1.0, 1.2, 3.0)):
        evaluate(run, n, call, x=x)
    assert [entry.computed for entry in run.ledger.entries] == [True, False, True]
    assert [entry.score for entry in run.ledger.entries] == [None, pytest.approx(0.2), pytest.approx(2.0)]


def test_what_the_predictor_hands_on_for_a_computed_velocity_reaches_the_solver():
    class Repaying(Hold):
        corrects = True

        def correct(self, history, seen, x, feature):
            return feature + 0.25

    run = run_of(Site.COND, Never(), Repaying())
    assert evaluate(run, 0, Call([P, N], [1.0, 2.0]))[0] == [[1.25, 2.25]]


def test_only_a_run_without_cfg_is_told_that_there_is_no_negative_prompt():
    run = run_of(Site.UNCOND)
    evaluate(run, 0, Call([P, N], [1.0, 2.0]), Call([P], [5.0]))
    assert run.ledger.notes == []
    evaluate(run, 1, Call([P, None], [1.0, 0.0]))
    assert run.ledger.notes == ["There is no negative prompt to leave out: CFG is 1.0."]
