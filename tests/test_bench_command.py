"""The command `./encore bench`: what it takes, what it refuses, and how rows of one run join another's."""

import json
from types import SimpleNamespace

import pytest
from pack.bench import frontier, output, rows, run
from pack.bench.methods import RIVALS
from pack.cache_core import CacheError
from pack.cache_core.trace import universal
from pack.demo.agreement import DEFAULTS
from pack.launch import bench, cli, errors


class TestCommand:
    def test_what_is_said_outweighs_quick_and_quick_outweighs_the_defaults(self):
        assert run.size(False) == run.Size(prompts=16, steps=50, rounds=5, batch=16)
        assert run.size(True, steps=7) == run.Size(prompts=4, steps=7, rounds=1, batch=16)

    def test_every_benchmark_can_be_asked_for(self):
        assert set(run.BENCHES) | set(run.ALONE) == set(bench.NAMES)
        options, _ = cli.parse(["bench", "methods", "--quick", "--model", "wan", "--prompts", "8", "--threads", "2"])
        assert (options.name, options.quick, options.model, options.prompts, options.threads, options.json) == (
            "methods",
            True,
            "wan",
            8,
            2,
            None,
        )

    @pytest.mark.parametrize("arguments", [["nothing"], ["methods", "--prompts", "0"], ["methods", "--model", "sdxl"]])
    def test_a_wrong_argument_ends_in_one_line(self, arguments, capsys):
        with pytest.raises(SystemExit):
            cli.parse(["bench", *arguments])
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_a_folder_that_is_not_there_is_named_before_anything_is_sampled(self, tmp_path):
        options, _ = cli.parse(["bench", "methods", "--json", str(tmp_path / "none" / "rows.json")])
        with pytest.raises(errors.LaunchError, match="there is no folder"):
            bench.bench(None, options)


class TestJoin:
    """Rows that one run leaves to another."""

    def row(self, method, prompts=4, steps=50, value=1.0):
        return rows.blank(type("Course", (), {"name": "demo-flux", "scenes": range(prompts)})(), method, "euler", []) | {
            "steps": steps,
            "psnr_db": value,
        }

    def write(self, path, *made):
        path.write_text(json.dumps({"command": "./encore bench frontier --only b", "rows": made}))
        return path

    def test_rows_that_this_run_lacks_follow_its_own(self, tmp_path):
        mine = [self.row("uncached"), self.row("a", value=2.0)]
        file = self.write(tmp_path / "b.json", self.row("uncached", value=7.0), self.row("a", value=3.0), self.row("b", value=4.0))
        found, command = output.join(mine, file)
        assert [(row["method"], row["psnr_db"]) for row in found] == [("uncached", 1.0), ("a", 2.0), ("b", 4.0)]
        assert command == "./encore bench frontier --only b"

    @pytest.mark.parametrize("other", [{"prompts": 5}, {"steps": 28}])
    def test_a_run_of_other_samplings_is_refused(self, tmp_path, other):
        file = self.write(tmp_path / "b.json", self.row("uncached", **other), self.row("b", **other))
        with pytest.raises(CacheError, match="Join runs of the same model, prompts, sampler and steps"):
            output.join([self.row("uncached")], file)

    @pytest.mark.parametrize("text", ["", "[]", '{"command": "x", "rows": [1]}', '{"command": "x", "rows": []}'])
    def test_what_is_no_run_is_refused(self, tmp_path, text):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(CacheError, match=r"b\.json"):
            output.join([self.row("uncached")], tmp_path / "b.json")

    def test_what_was_measured_is_kept_and_shown_if_a_file_does_not_fit(self, tmp_path, monkeypatch, capsys):
        columns = (("method", lambda row: row["method"]),)
        monkeypatch.setitem(run.ALONE, "code", (lambda *_: ([self.row("uncached")], []), columns))
        other, mine = self.write(tmp_path / "b.json", self.row("uncached", steps=28)), tmp_path / "a.json"
        with pytest.raises(CacheError, match="Join runs of the same"):
            run.bench("code", [], run.size(True), "", run.Files(mine, None, (other,)))
        assert [row["method"] for row in json.loads(mine.read_text())["rows"]] == ["uncached"]
        assert "uncached" in capsys.readouterr().out
        self.write(other, self.row("uncached"), self.row("b"))
        run.bench("code", [], run.size(True), "", run.Files(mine, None, (other,)))
        found = json.loads(mine.read_text())
        assert [row["method"] for row in found["rows"]] == ["uncached", "b"]
        assert found["joined"] == ["./encore bench frontier --only b"]

    def test_a_file_that_is_not_there_is_named_before_anything_is_sampled(self, tmp_path):
        options, _ = cli.parse(["bench", "frontier", "--join", str(tmp_path / "none.json")])
        with pytest.raises(errors.LaunchError, match="--join names"):
            bench.bench(None, options)


@pytest.mark.parametrize(
    ("only", "methods", "rivals"),
    [
        ((), {*frontier.NAMES, *frontier.PUBLISHED} - {"cfg_cache"}, list(RIVALS)),
        (("trace",), {"trace"}, []),
        (("reuse", "fewer_steps_2nd"), {"reuse"}, ["fewer_steps_2nd"]),
        (("teacache", "fewer_steps_euler"), {"teacache"}, ["fewer_steps_euler"]),
    ],
)
def test_a_frontier_of_some_methods_takes_plain_rivals_only_where_they_are_asked_for(monkeypatch, only, methods, rivals):
    setting, judged, asked = DEFAULTS["flux"], [], []
    uncached = SimpleNamespace(entrant=SimpleNamespace(setting=setting, method="uncached"))
    course = SimpleNamespace(family="flux", name="demo-flux", scenes=(1,), race=lambda *_: None)
    course.judge = lambda entrant, frames, bar: judged.append(entrant.method) or SimpleNamespace(entrant=entrant)
    monkeypatch.setattr(frontier.teachers, "shipped", lambda *_: universal())
    monkeypatch.setattr(frontier.teachers, "universal", lambda *_, **__: universal())
    monkeypatch.setattr(frontier, "reference", lambda *_: (uncached, None))
    monkeypatch.setattr(frontier, "fewer_steps", lambda course, setting, costs, frames, bar, names: asked.append((costs, names)) or {})
    monkeypatch.setattr(frontier, "make_table", lambda *_: SimpleNamespace(row=lambda result, _: result))
    frontier.run(course, setting, 1, SimpleNamespace(expect=lambda *_: None), only)
    assert set(judged) == methods
    assert asked == [([9, 12, 16, 24, 33], rivals)]
