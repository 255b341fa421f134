"""The demo models as TRACE's teachers: what a universal calibration is made of."""

from argparse import Namespace
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from pack.bench import contest, skip, skip_making, teachers
from pack.bench.contest import make_course
from pack.cache_core import Schedule
from pack.cache_core.trace import universal
from pack.demo.agreement import DEFAULTS


def test_a_universal_calibration_leaves_one_model_out_and_has_the_first_ones_schedule():
    found = teachers.universal(8, without="wan", trajectories=1)
    assert found.about == {"models": ["demo-flux", "demo-dit-skip", "demo-dit"]}
    assert found.statistics.trajectories == 3
    assert found.statistics.levels == ()
    flux = teachers.recorded("flux", replace(DEFAULTS["flux"], steps=8), 1)
    assert found.statistics.sigmas == flux.sigmas
    parts = [teachers.recorded(name, replace(teachers.TEACHERS[name], steps=8), 1).whole() for name in ("dit-skip", "dit")]
    schedule = Schedule((*flux.sigmas, flux.end))
    mean = (flux.whole().gram + sum(part.at(schedule).gram for part in parts)) / 3
    assert found.statistics.gram == pytest.approx(mean)


def test_the_one_that_ships_is_of_all_teachers():
    assert universal().about["models"] == [f"demo-{name}" for name in teachers.TEACHERS]


def test_calibrations_learn_from_other_noise_and_prompts_than_are_reported_on():
    assert teachers.PROMPTS - teachers.HELD_OUT > 1 << 40
    room = teachers.classroom("flux", DEFAULTS["flux"], 16)
    assert not set(room.scenes) & set(make_course("flux", 64, 16).scenes)


@pytest.mark.parametrize("command", [False, True])
def test_a_skip_branch_is_fitted_on_prompts_that_are_not_held_out(monkeypatch, tmp_path, command):
    class Seen(Exception):
        pass

    def sampled(course, recipe, setting, seed, progress):
        raise Seen(course.scenes)

    monkeypatch.setattr(contest.Course, "sampled", sampled)
    course = make_course("flux", 8, 8)
    options, bar = Namespace(model="flux", batch=8, steps=2, file=tmp_path / "x.safetensors"), SimpleNamespace(expect=lambda *_: None)
    make = partial(skip_making.fit, options) if command else partial(skip.learned, course, DEFAULTS["flux"], bar)
    with pytest.raises(Seen) as seen:
        make()
    assert len(seen.value.args[0]) == 8
    assert not set(seen.value.args[0]) & set(course.scenes)
