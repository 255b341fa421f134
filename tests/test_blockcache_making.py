"""What `./encore blockcache` makes and says, and what Encore Block Profile says on the canvas while it works."""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import comfy
import pytest
import torch
from blockcache_runs import sampling
from host_models import LATENT, prompt
from pack.bench import making
from pack.cache_core import Placement
from pack.cache_core.blockcache import schedule
from pack.cache_core.blockcache.profile import load as load_profile
from pack.cache_core.blockcache.schedule import load as load_schedule
from pack.launch import blockcache as command
from pack.nodes import blockcache as nodes
from pack.nodes.adapters.blockcache import Measurement, cost
from pack.nodes.blockcache import files, progress
from PIL import Image

pytestmark = pytest.mark.host


class Canvas:
    """ComfyUI's server, as far as texts on nodes go."""

    def __init__(self, monkeypatch):
        self.said = []
        source = (Path(comfy.__path__[0]).parent / "server.py").read_text()
        assert re.search(r"def send_progress_text\(\s*self, text: [^)]*, node_id: str, sid=None", source), "as the host has it"
        monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=self)))

    def send_progress_text(self, text, node_id):
        self.said.append((node_id, text))


class TestProgress:
    def test_a_node_tells_its_cost_first_and_then_the_time_left(self, monkeypatch, capsys):
        canvas, now = Canvas(monkeypatch), iter([100.0, 103.0, 106.0, 406.0])
        monkeypatch.setattr(progress.time, "perf_counter", lambda: next(now))
        bar = progress.Progress("7", "Encore Block Profile", "much", 10)
        assert canvas.said == [("7", "much")]
        for steps in (1, 1, 1, 1):
            bar.update(steps)
        assert [text for _, text in canvas.said[1:]] == [
            "much\n2 of 10 steps, some 24 s to go",
            "much\n3 of 10 steps, some 21 s to go",
            "much\n4 of 10 steps, some 10 min to go",
        ]
        assert capsys.readouterr().out == "Encore Block Profile: much\nEncore Block Profile: some 24 s to go\n"

    @torch.inference_mode()
    def test_the_profile_node_does(self, model, family, tmp_path, monkeypatch):
        canvas = Canvas(monkeypatch)
        monkeypatch.setattr(files, "OWN", tmp_path)
        monkeypatch.setattr(nodes.EncoreBlockProfile, "hidden", SimpleNamespace(unique_id="3"), raising=False)
        latent, settings = {"samples": torch.zeros(2, *LATENT[family])}, {"seed": 1, "steps": 4, "cfg": 1.0}
        source = {"positive": prompt(5, 11), "negative": prompt(5, 12), "latent_image": latent, "sampler_name": "euler"}
        nodes.EncoreBlockProfile.execute(
            model, **source, scheduler="simple", trajectories=1, branches=False, device="cpu", name="x", **settings
        )
        assert canvas.said[0][1].startswith("2 uncached samplings of 4 steps, ")
        assert canvas.said[0][1].endswith(" MiB kept in RAM")
        assert [text.split("\n")[1].split(",")[0] for _, text in canvas.said[1:]] == [f"{n} of 4 steps" for n in (2, 3, 4)]
        assert {node for node, _ in canvas.said} == {"3"}

    def test_the_forecast_is_what_a_step_keeps(self, model, family):
        tokens = 5 + 16 if family == "flux" else 3 * 16
        mib = 3 * 2 * tokens * 128 * 4 / 2**20  # blocks, conditions, tokens, width, bytes of a float32
        known = sampling(model, family, cfg=3.0)
        told = cost(Measurement("x", model, placement=Placement()), [1, *LATENT[family]], 6, 8, known.positive, 3.0)
        assert told == f"6 uncached samplings of 8 steps, {mib:.3g} MiB kept beside the model"


def test_the_commands_files_of_a_demo_model(tmp_path, monkeypatch, capsys):
    lessons, student = [], making.student
    monkeypatch.setattr(making, "STATE", tmp_path)
    monkeypatch.setattr(making, "student", lambda model, schedule, lesson: lessons.append(lesson) or student(model, schedule, lesson))
    order = making.Order("flux", trajectories=2, reduction=1.3, iterations=1, weighing=1, steps=6, batch=2, folder=tmp_path)
    making.make(("profile", "schedule", "train"), order)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("demo-flux, profile: 2 uncached samplings of 6 steps, ")
    assert said[0].endswith(" MiB kept beside the model")
    assert "trajectories differs" not in said[2]
    with Image.open(tmp_path / "alignments" / "demo-flux-train.png") as curve:
        assert curve.format == "PNG"
    making.make(("train",), replace(order, checkpointed=True, iterations=2))
    assert [lesson.checkpointed for lesson in lessons] == [False, True]
    monkeypatch.setattr(making, "FEW", 1)
    capsys.readouterr()
    making.make(("schedule",), order)
    profile, made = (
        load(tmp_path / kind / "demo-flux.safetensors") for load, kind in ((load_profile, "profiles"), (load_schedule, "schedules"))
    )
    other = 100 * made.unlike(schedule(profile.first(1), made.delta))
    assert capsys.readouterr().out.endswith(f"that of the first 1 of 2 trajectories differs in {other:.1f} % of the cells\n")
    assert other > 0.0


def test_the_commands_options_reach_what_is_made(monkeypatch):
    orders, parser = [], argparse.ArgumentParser()
    monkeypatch.setattr(command, "load_pack", lambda host: "pack")
    monkeypatch.setattr(making, "make", lambda what, order: orders.append(order) or 0)
    command.add_options(parser)
    for words in (["train", "flux"], ["train", "flux", "--checkpointed"]):
        assert command.blockcache(None, parser.parse_args(words)) == 0
    assert [order.checkpointed for order in orders] == [False, True]
