"""The benchmark of what Encore itself costs: a small run of it, its clock, and the recipes it measures."""

import json
from dataclasses import replace

import torch
from pack.bench import overhead, run
from pack.bench.contest import Entrant
from pack.cache_core import Ledger, Observation, Schedule, Step, published
from pack.cache_core.ledger import Entry
from pack.demo.agreement import DEFAULTS

STEPS = 12


def test_overhead_is_measured_at_every_site_and_what_is_kept_is_foretold(tmp_path):
    file = tmp_path / "overhead.json"
    run.bench("overhead", ["flux"], run.size(True, prompts=1, steps=STEPS), "./encore bench overhead", run.Files(file))
    control, easy, lazy, trace, *found = json.loads(file.read_text())["rows"]
    assert [row["method"] for row in (control, easy, lazy)] == ["uncached", "comfyui_easycache", "comfyui_lazycache"]
    assert not any("site" in row for row in (control, easy, lazy))
    assert {row["site"] for row in found} >= {"guided", "cond", "stack"}
    assert (trace["method"], trace["computed"]) == ("trace", 5)
    for row in (trace, *found):
        assert set(row) >= {"model", "method", "setting", "overhead_us", "overhead_percent", "prompts", "rounds", "notes"}
        assert row["computed"] == row["steps"] == STEPS or row is trace
        assert min(row["evaluation_us"], row["skipped_us"]) > 0
        assert row["overhead_us_ci"][0] <= row["overhead_us"] <= row["overhead_us_ci"][1]
        assert row["kept_bytes"] == row["kept_bytes_predicted"]


def test_evaluations_that_were_computed_are_told_from_those_that_were_not():
    times = [overhead.Times(n, n, n) for n in range(12)]
    bare = overhead.Timing(Entrant("uncached", replace(DEFAULTS["flux"], steps=6), ""), overhead.Clock(True))
    assert [one.passed for one in bare.late(times)] == [4, 5, 10, 11]
    ledgers = [Ledger("", "", "guided", 6, entries=[Entry(n, n, 1.0, n % 2 == 0, "", None, 0) for n in range(6)]) for _ in range(2)]
    mixed = overhead.Timing(bare.entrant, overhead.Clock(True), ledgers)
    assert [[one.passed for one in mixed.late(times, computed)] for computed in (True, False)] == [[4, 10], [5, 11]]


def test_a_clock_tells_the_networks_own_time_apart_and_leaves_no_hook():
    layer = torch.nn.Linear(4, 4)
    clock = overhead.Clock(True, [layer])
    with clock.watching():
        _, times = clock._time(lambda: [layer(torch.zeros(2, 4)) for _ in range(3)])
    assert 0 < times.own < times.host
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


def test_the_bare_model_is_called_without_what_encore_attached():
    ours = {"apply_model": {"encore": [print], "lazycache": [print], "other": [len]}}
    found = overhead.without_caches({"transformer_options": {"encore": 1, "easycache": 4, "wrappers": ours, "cond": 2}, "disable": 3})
    assert found == {"transformer_options": {"wrappers": {"apply_model": {"other": [len]}}, "cond": 2}, "disable": 3}
    assert ours["apply_model"]["encore"] == [print]


def test_an_idle_recipe_follows_no_wish_and_an_eager_one_every_wish():
    inner = published.fora(2).policy
    assert not overhead.Declined(inner).propose(inner.init(), _seen(9))[0].reuse
    assert [overhead.Eager(inner).propose(inner.init(), _seen(n))[0].reuse for n in (3, 4, 5)] == [False, True, True]


def _seen(evaluation):

    schedule = Schedule(tuple(1 - n / 10 for n in range(11)))
    return Observation(Step(schedule, 1 - evaluation / 10, evaluation), None, 0, evaluation)
