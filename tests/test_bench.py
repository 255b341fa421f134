"""Benchmarks: the schema of a real run, intervals against known cases, and metrics against what they are defined by."""

import inspect
import json
import math
import random
from dataclasses import asdict, replace

import pytest
import torch
from pack.bench import ablations, blockcache, bootstrap, contest, frontier, methods, metrics, output, plot, rows, run, skip
from pack.cache_core import CacheError, Recipe, published
from pack.cache_core.trace import Statistics, calibrated, universal
from pack.cache_core.trace.bands import LEVELS
from pack.demo import judge
from pack.demo.agreement import DEFAULTS, HELD_OUT
from pack.demo.world import draw_scene, render
from pack.nodes.adapters import options
from PIL import Image
from policy_runs import flow

SCHEMA = {"model", "method", "setting", "steps", "computed", "macs_reduction", "speedup", "psnr_db", "ssim", "judge_distance", "frechet"}
SCHEMA |= {"agreement", "prompts", "notes"}
DIFFERENCES = ("psnr_db", "ssim", "judge_distance", "frechet", "agreement", "speedup")
STEPS = 6
EXCLUDED = {method.make.__name__ for method in methods.METHODS if isinstance(method.flux, str)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """`bench methods` on demo-flux as it writes it, so small that only its form is worth a look."""
    file = tmp_path_factory.mktemp("bench") / "methods.json"
    size = run.size(True, prompts=2, steps=STEPS)
    assert run.bench("methods", ["flux"], size, "./encore bench methods --quick", run.Files(file)) == 0
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(HELD_OUT)
    return [draw_scene(rng) for _ in range(6)]


def measured(written):
    return [row for row in written["rows"] if row["method"] not in EXCLUDED]


class TestWhatIsWritten:
    pytestmark = pytest.mark.host

    def test_the_file_says_how_it_was_made_and_that_it_was_shrunk(self, written):
        assert written["command"] == "./encore bench methods --quick"
        assert written["shrunk"] is True
        about = written["environment"]
        assert {"encore", "comfyui", "python", "torch", "threads", "weights_sha256"} <= set(about)
        assert ("cpu" in about) != ("gpu" in about)
        assert about["threads"] == torch.get_num_threads()

    def test_every_row_has_the_whole_schema(self, written):
        for row in written["rows"]:
            assert set(row) >= SCHEMA
            assert row["model"] == "demo-flux"
            assert row["prompts"] == 2
            lacking = {name for name in SCHEMA if row[name] is None}
            assert not lacking or (row["notes"] and row["method"] in EXCLUDED)

    def test_every_method_and_both_plain_rivals_are_there(self, written):
        found = {row["method"] for row in written["rows"]}
        assert found == {"uncached", "fewer_steps_euler", "fewer_steps_2nd"} | {method.make.__name__ for method in methods.METHODS}

    def test_every_published_method_is_in_the_table(self):
        made = {
            name
            for name, make in vars(published).items()
            if inspect.isfunction(make) and not name.startswith("_") and inspect.signature(make).return_annotation in (Recipe, "Recipe")
        }
        ours = {"measure", "masked", "collect", "follow", "planned", "trace_to"}
        learned = {"block_cache", "block_profile"}  # has a benchmark of its own
        assert made - ours - learned == {method.make.__name__ for method in methods.METHODS}

    def test_every_interval_contains_its_value(self, written):
        for row in measured(written):
            for name in (*DIFFERENCES[:3], "agreement"):
                low, high = row[f"{name}_ci"]
                assert low - 1e-9 <= row[name] <= high + 1e-9, (row["method"], name)
            assert {f"{name}_ci" for name in DIFFERENCES} <= set(row)

    def test_the_uncached_row_is_equal_to_itself_and_the_others_are_compared_with_it(self, written):
        uncached, *others = measured(written)
        assert uncached["method"] == "uncached"
        assert (uncached["psnr_db"], uncached["ssim"], uncached["judge_distance"], uncached["frechet"]) == pytest.approx((100, 1, 0, 0))
        assert (uncached["computed"], uncached["macs_reduction"], uncached["speedup"]) == (STEPS, 1.0, 1.0)
        for row in others:
            same = row["macs_reduction"] == pytest.approx(1.0, abs=0.01) and row["method"] != "fewer_steps_2nd"
            assert (row["psnr_db"] == 100.0) is same, row["method"]

    def test_fewer_steps_cost_what_the_method_costs(self, written):
        by_name = {}
        for row in written["rows"]:
            by_name.setdefault(row["method"], []).append(row)
        costs = {row["steps"] for row in by_name["fewer_steps_euler"]}
        assert costs == {row["steps"] for row in by_name["fewer_steps_2nd"]}
        for row in written["rows"]:
            if "psnr_db_over_euler" in row:
                cost = round(STEPS / row["macs_reduction"])
                plain = next(plain for plain in by_name["fewer_steps_euler"] if plain["steps"] == cost)
                assert row["psnr_db_over_euler"] == pytest.approx(row["psnr_db"] - plain["psnr_db"])


class TestBootstrap:
    def test_the_interval_of_a_mean_is_the_normal_one_where_there_are_many_prompts(self):
        values = torch.randn(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        low, high = bootstrap.interval(bootstrap.means(values.tolist()))
        half = 1.96 * float(values.std()) / 400**0.5
        assert (low, high) == pytest.approx((float(values.mean()) - half, float(values.mean()) + half), abs=0.12 * half)

    def test_two_prompts_give_a_quarter_each_to_the_ends(self):
        share = float((bootstrap.means([0.0, 1.0]) == 0.0).double().mean())
        assert share == pytest.approx(0.25, abs=0.05)
        assert bootstrap.interval(bootstrap.means([0.0, 1.0])) == (0.0, 1.0)

    def test_what_a_prompt_does_to_both_cancels(self):
        hard = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
        ours = [value + 1.0 for value in hard]
        assert bootstrap.interval(bootstrap.means(ours) - bootstrap.means(hard)) == pytest.approx((1.0, 1.0))

    def test_every_call_draws_the_same_and_at_least_a_thousand_times(self):
        draws = bootstrap.resamples(16)
        assert torch.equal(draws, bootstrap.resamples(16))
        assert draws.shape[0] >= 1000
        assert set(draws.unique().tolist()) == set(range(16))

    def test_no_prompts_are_refused(self):
        with pytest.raises(ValueError, match="needs 1 prompt"):
            bootstrap.resamples(0)


class TestMetrics:
    def test_frechet_from_inner_products_is_the_judges(self):
        generator = torch.Generator().manual_seed(1)
        a, b = torch.randn(12, 40, generator=generator), 0.5 + 2 * torch.randn(30, 40, generator=generator)
        draws = torch.stack([torch.arange(12), torch.tensor([3, 3, 0, 11, 5, 5, 5, 2, 9, 1, 1, 7])])
        alone = metrics.frechets(a, b, draws, paired=False)
        together = metrics.frechets(a, b, draws, paired=True)
        for n, rows_drawn in enumerate(draws):
            assert float(alone[n]) == pytest.approx(judge.frechet(a[rows_drawn], b), rel=1e-6)
            assert float(together[n]) == pytest.approx(judge.frechet(a[rows_drawn], b[rows_drawn]), rel=1e-6)

    def test_a_prompt_is_drawn_with_all_its_frames(self):
        assert metrics.rows_of(torch.tensor([[2, 0]]), 2).tolist() == [[4, 5, 0, 1]]

    def test_scores_fall_as_a_picture_moves_away_and_are_best_for_the_same(self, scenes):
        frames = render(scenes[:1], random.Random(0))[0]
        noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
        same, near, far = (metrics.score("flux", scenes[0], (frames + size * noise).clamp(0, 1), frames) for size in (0, 0.01, 0.1))
        assert (same.psnr_db, same.ssim, same.judge_distance) == (100.0, 1.0, 0.0)
        assert same.psnr_db > near.psnr_db > far.psnr_db
        assert same.ssim > near.ssim > far.ssim
        assert same.judge_distance < near.judge_distance < far.judge_distance

    def test_psnr_is_not_rounded_to_pixel_values(self, scenes):
        frames = torch.full((1, 64, 64, 3), 0.5)
        off = metrics.score("flux", scenes[0], frames + 0.001, frames)
        assert off.psnr_db == pytest.approx(60.0, abs=0.01)

    def test_a_clips_psnr_is_over_all_frames(self, scenes):
        frames = torch.full((5, 64, 64, 3), 0.5)
        moved = frames.clone()
        moved[2] += 0.1
        assert metrics.score("wan", scenes[0], moved, frames).psnr_db == pytest.approx(-10 * math.log10(0.01 / 5), abs=0.01)


class TestOutput:
    def test_a_file_is_whole_or_not_there(self, tmp_path):
        file = tmp_path / "rows.json"
        file.write_text("old")
        with pytest.raises(TypeError):
            output.write(file, {"rows": [object()]})
        assert file.read_text() == "old"
        output.write(file, {"rows": [math.nan, (1.0, math.inf)]})
        assert json.loads(file.read_text()) == {"rows": [None, [1.0, None]]}
        assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]

    def test_the_table_has_the_fastest_first_and_the_notes_below(self):
        row = {"model": "m", "method": "slow", "speedup": 1.0, "notes": []}
        excluded = row | {"method": "left out", "speedup": None, "notes": ["why"]}
        columns = [("method", lambda row: row["method"]), ("dB", lambda row: f"{row['psnr_db']:.1f}")]
        text = output.table(columns, [row, row | {"method": "fast", "speedup": 2.0, "psnr_db": 40.0}, excluded])
        assert [line.split("  ")[0] for line in text.splitlines()] == ["method", "fast", "slow", "left out", "m, left out: why"]


def test_a_method_that_a_paper_excludes_gets_a_row_with_the_reason(monkeypatch):
    course = type("Course", (), {"family": "wan", "name": "demo-wan", "scenes": (1, 2)})()
    monkeypatch.setattr(methods, "METHODS", (methods.Method(published.fora, {}, "its paper is about pictures"),))
    entrants, excluded = methods.entries(course, None)
    assert entrants == []
    assert excluded[0] == rows.blank(course, "fora", "", ["its paper is about pictures"])
    assert excluded[0]["prompts"] == 2


def test_of_the_methods_only_those_asked_for_run_and_a_name_that_none_has_is_refused():
    course = type("Course", (), {"family": "flux", "name": "demo-flux", "scenes": (1,)})()
    found, excluded = methods.entries(course, None, ("trace", "teacache"))
    assert [entrant.method for entrant in found] == ["trace", "teacache"]
    assert excluded == []
    with pytest.raises(CacheError, match="There is no method tracee"):
        methods.entries(course, None, ("tracee",))
    with pytest.raises(CacheError, match="The frontier has no tracee"):
        frontier.run(course, None, 1, None, ("tracee",))
    with pytest.raises(CacheError, match="No alignment of demo-flux is called tracee"):
        blockcache.run(course, None, 1, None, ("tracee",))


def test_a_frontier_is_drawn_with_a_line_for_each_method(tmp_path):
    made = [{"model": "demo-flux", "method": "uncached", "macs_reduction": 1.0, "psnr_db": None}]
    made += [
        {"model": "demo-flux", "method": m, "macs_reduction": x, "psnr_db": y - x} for m, y in (("a", 60), ("b", 50)) for x in (2.0, 4.0)
    ]
    plot.frontier(made, tmp_path / "frontier.png")
    found = Image.open(tmp_path / "frontier.png").convert("RGB")
    seen = {colour for _, colour in found.getcolors(1 << 20)}
    assert set(plot.COLOURS[:2]) <= seen
    assert plot.COLOURS[2] not in seen
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.png"]


def test_every_ablation_is_on_the_mask_of_the_whole():
    random = torch.Generator().manual_seed(0)
    schedule = flow(20)
    start, *velocities = (torch.randn(2, 4, 8, 8, generator=random) for _ in range(21))
    known = calibrated("mine", Statistics.of(start, velocities, schedule.sigmas[:-1], LEVELS, 0.0), {}, tries=2)
    found = dict(ablations.variations(known, known, {"another": known.statistics}, 20, 2.0))
    assert len(found) == 13
    assert len({made.computed for made in found.values()}) == 1
    assert (
        len({str(made.weights) for made in found.values()}) == 10
    )  # four are alike: nothing was rehearsed or mixed, "another" is the same


def test_a_calibration_of_other_models_is_compared_with_its_guard_and_at_equal_steps():
    found = {entrant.method: entrant.recipe for entrant in frontier.entries(universal(), universal(), DEFAULTS["flux"], "flux", 2.0)}
    assert tuple(found) == frontier.NAMES
    assert found["trace_left_out"].policy.alarm > found["trace_left_out_unguarded"].policy.alarm == 0.0


def test_every_line_of_the_frontier_has_a_colour_of_its_own():
    assert len(set(plot.COLOURS)) == len(plot.COLOURS) >= len([*frontier.NAMES, *methods.RIVALS])


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_a_calibration_for_something_else_differs_in_one_setting(family):
    usual = DEFAULTS[family]
    for other in ablations.shifted(usual).values():
        ours, theirs = asdict(usual), asdict(other)
        assert len([name for name in ours if ours[name] != theirs[name]]) == 1


def test_demo_flux_has_trained_branches_of_its_own_and_samples_with_them():
    course = skip.make("flux-skip", 1, 1)
    assert (course.name, course.family) == ("demo-flux-skip", "flux")
    made = options.branches_of(course.model.model_options["transformer_options"])
    assert len(made) == 3
    assert all(float(branch.linear.weight.abs().max()) > 0 for branch in made)
    setting = replace(DEFAULTS["flux"], steps=2)
    plain, branched = (
        each.frames(contest.Entrant("uncached", setting, ""), lambda prompts: None)[0]
        for each in (contest.make_course("flux", 1, 1), course)
    )
    assert 0 < float((plain - branched).abs().mean()) < 0.1
