"""The workflows: sound for ComfyUI and for the eye; the demo ones run through a real server."""

import asyncio
import io
import json
import os
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import aiohttp
import folder_paths
import pytest
from comfyui_version import __version__
from pack.demo.world import MOTIONS, SIDE, parse
from pack.launch import blockcache_workflows, skip_workflows, templates
from pack.launch.server import Server, serving
from pack.launch.setup import Host
from pack.launch.validate import validate
from pack.launch.workflow import Workflow, to_prompt
from pack.nodes import methods as nodes
from PIL import Image

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "workflows").glob("*.json"))
DOCUMENTS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FILES}
DEMOS = {"demo_flux_before_after": 4, "demo_wan_before_after": 5}  # pictures that a branch saves
METHODS = {f"{templates.slug({'display_name': node.title})}_demo": node.node_id for node in nodes.METHODS}
METHODS |= {"encore_skip_cache_demo": "EncoreSkipCache", "trace_demo": "EncoreTrace"}
METHODS |= dict.fromkeys((skip_workflows.FLUX, skip_workflows.DIT), skip_workflows.CACHE)
METHODS |= {blockcache_workflows.name_of(family): blockcache_workflows.CACHE for family in blockcache_workflows.FAMILIES}
PAIRS = {"code_demo", "wan22_relay"}  # of two models on one picture
OLDER = __version__.split(".") < ["0", "30"]
TITLE = 30  # pixels of a node's title, above its position
STEPS = 8
MORE = 12  # past the warm-up of every method
FIXED = {
    "delta_dit",
    "fastercache",
    "fora",
    "freqca",
    "golden_path",
    "hicache",
    "lemica",
    "pab",
    "spectrum",
    "taylorseer",
}  # not by a threshold
PATIENCE = 240.0  # seconds without a word from the server

pytestmark = pytest.mark.host
every_workflow = pytest.mark.parametrize("name", DOCUMENTS)
every_cached = pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in PAIRS])
every_demo = pytest.mark.parametrize("name", DEMOS)
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """ComfyUI with the pack, in a process of its own with one thread: two on a busy machine only wait for each other."""
    host = Host(Path(folder_paths.__file__).parent, Path(sys.executable), found=False)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
        with serving(host, Path(home), "test-workflows", cpu=True) as started:
            yield started


@pytest.fixture(scope="session")
def object_info(server: Server) -> dict[str, Any]:
    """All node types that the server knows."""
    found: dict[str, Any] = server.get("/object_info")
    return found


def _nodes(name: str, *kinds: str) -> list[dict[str, Any]]:
    return [node for node in DOCUMENTS[name]["nodes"] if node["type"] in kinds]


def test_each_model_has_a_demo_and_an_official_workflow() -> None:
    assert set(DOCUMENTS) - set(METHODS) == {*DEMOS, *PAIRS, "flux_dev_before_after", "wan21_t2v_before_after"}


def test_each_method_has_a_workflow_as_it_is_written_today(object_info: dict[str, Any]) -> None:
    made = dict(templates.documents(object_info))
    assert set(made) == set(METHODS) | PAIRS
    for name, document in made.items():
        shared = document["nodes"] if name in PAIRS and OLDER else None  # ComfyUI's own nodes had other widgets then
        kept = [node["type"] for node in DOCUMENTS[name]["nodes"]] if shared else DOCUMENTS[name]
        found = [node["type"] for node in shared] if shared else document
        assert kept == found, f"{name} is not what `python -m launch.templates` writes for this node"


@every_workflow
def test_no_nodes_overlap_and_each_lies_in_one_group(name: str) -> None:
    boxes = {node["id"]: (node["pos"][0], node["pos"][1] - TITLE, *node["size"]) for node in DOCUMENTS[name]["nodes"]}
    boxes = {number: (x, y, x + width, y + height + TITLE) for number, (x, y, width, height) in boxes.items()}
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], f"nodes {one} and {other} overlap"
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in DOCUMENTS[name]["groups"])]
    for number, box in boxes.items():
        inside = [g for g in groups if g[0] <= box[0] and g[1] <= box[1] and box[2] <= g[2] and box[3] <= g[3]]
        assert len(inside) == 1, f"node {number} lies in {len(inside)} groups"


@every_workflow
def test_links_run_from_left_to_right(name: str) -> None:
    place = {node["id"]: node["pos"][0] for node in DOCUMENTS[name]["nodes"]}
    assert all(place[link[1]] <= place[link[3]] for link in DOCUMENTS[name]["links"])


@every_cached
def test_the_two_branches_differ_in_the_encore_node_alone(name: str) -> None:
    uncached, cached = _nodes(name, "KSampler")
    assert uncached["widgets_values"] == cached["widgets_values"]
    assert uncached["widgets_values"][1] == "fixed"
    (measure,), (apply,) = _nodes(name, "EncoreMeasure"), _nodes(name, METHODS.get(name, "EncoreApply"))
    workflow = Workflow(DOCUMENTS[name])
    sources = [[workflow.source(given["link"]) for given in node["inputs"] if given.get("link")] for node in (uncached, cached)]
    assert [found[0] for found in sources] == [(str(measure["id"]), 0), (str(apply["id"]), 0)]
    assert sources[0][1:] == sources[1][1:]
    assert workflow.source(measure["inputs"][0]["link"]) == workflow.source(apply["inputs"][0]["link"])
    (report,) = _nodes(name, "EncoreReport")
    compared = {given["name"]: workflow.source(given["link"]) for given in report["inputs"]}
    assert compared == {"latent": (str(cached["id"]), 0), "baseline": (str(uncached["id"]), 0)}


@every_demo
def test_captions_of_the_demos_can_be_read(name: str) -> None:
    positive, negative = _nodes(name, "EncoreDemoPrompt")
    lines = positive["widgets_values"][1].splitlines()
    scenes = [parse(line) for line in lines]
    moving = "wan" in name
    assert len(lines) == (1 if moving else DEMOS[name])
    assert all(any(motion in line for motion in MOTIONS) == moving for line in lines)
    for first, second in (scene.things for scene in scenes):
        assert not {first.cell, first.end} & {second.cell, second.end}, "the two things would meet"
    assert not negative["widgets_values"][1].strip()


@every_workflow
def test_comfyui_knows_all_nodes_widgets_and_links(name: str, object_info: dict[str, Any]) -> None:
    assert validate(DOCUMENTS[name], object_info, any_model=name not in {*DEMOS, *METHODS, "code_demo"}) == []


@every_workflow
def test_a_broken_workflow_is_found_out(name: str, object_info: dict[str, Any]) -> None:
    text = json.dumps(DOCUMENTS[name])
    for sound, broken in (('"euler"', '"eulr"'), ('"uni_pc"', '"uni_cp"'), ('"EncoreMeasure"', '"EncoreMeasur"')):
        if sound in text:
            assert validate(json.loads(text.replace(sound, broken)), object_info, any_model=True)


@pytest.fixture(scope="session")
def runs(server: Server, object_info: dict[str, Any]) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """What each demo workflow left in the server's history, and the live reports it sent, with the steps turned down."""
    return {name: asyncio.run(_run(server, _prompt(name, object_info, STEPS))) for name in DEMOS}


@pytest.fixture(scope="session")
def method_runs(server: Server, object_info: dict[str, Any]) -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The same of each method's workflow. Those of one model follow each other: ComfyUI samples their uncached branch once."""
    names = sorted(METHODS, key=lambda name: METHODS[name] in templates.ON_WAN)
    return {name: asyncio.run(_run(server, _single(_prompt(name, object_info, MORE)))) for name in names}


def _single(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt, for one picture in place of four."""
    for node in prompt.values():
        given = node["inputs"]
        given |= {"batch_size": 1} if "batch_size" in given else {}
        given |= {"text": given["text"].split("\n")[0]} if "text" in given else {}
    return prompt


def _prompt(name: str, object_info: dict[str, Any], steps: int) -> dict[str, Any]:
    prompt = to_prompt(Workflow(DOCUMENTS[name]), object_info)
    for node in prompt.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = steps
    return prompt


async def _run(server: Server, prompt: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Queue a prompt as a browser does, wait for its end, and return its history and the live reports."""
    live: list[dict[str, Any]] = []
    patience = aiohttp.ClientWSTimeout(ws_receive=PATIENCE)
    async with aiohttp.ClientSession(server.address) as session, session.ws_connect("/ws?clientId=test", timeout=patience) as socket:
        async with session.post("/prompt", json={"prompt": prompt, "client_id": "test"}) as answer:
            queued = await answer.json()
            assert answer.status == 200, queued
        async for message in socket:
            event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {}
            if event.get("type") == "encore.report":
                live.append(event["data"])
            over = event.get("type") == "executing" and event["data"]["node"] is None  # the history is written by then
            if over or event.get("type") == "execution_error":
                break
        async with session.get(f"/history/{queued['prompt_id']}") as answer:
            return (await answer.json())[queued["prompt_id"]], live


def test_code_runs_beside_one_model_alone(server: Server, object_info: dict[str, Any]) -> None:
    history, _ = asyncio.run(_run(server, to_prompt(Workflow(DOCUMENTS["code_demo"]), object_info)))
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    for saved in _outputs("code_demo", history, "SaveImage"):
        pictures = [_picture(server, found) for found in saved["images"]]
        assert [picture.size for picture in pictures] == [(SIDE, SIDE)] * 8
    alone, both = (found["text"][0] for found in _outputs("code_demo", history, "PreviewAny"))
    assert "demo-drafter" in alone
    assert "demo-drafter_5" in both
    assert "demo-refiner_5" in both


def _outputs(name: str, history: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """The ui outputs of the nodes of one type, in the order of the workflow."""
    return [history["outputs"][str(node["id"])] for node in _nodes(name, kind)]


def _picture(server: Server, saved: dict[str, str]) -> Image.Image:
    with urllib.request.urlopen(f"{server.address}/view?{urllib.parse.urlencode(saved)}") as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


@every_demo
def test_a_demo_runs_and_saves_the_pictures_of_both_branches(name: str, server: Server, runs: dict[str, Any]) -> None:
    history, _ = runs[name]
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    for row, saved in enumerate(_outputs(name, history, "SaveImage")):
        assert len(saved["images"]) == DEMOS[name]
        assert all(("uncached" in found["filename"]) == (row == 0) for found in saved["images"])
        pictures = [_picture(server, found) for found in saved["images"]]
        assert all(picture.size == (2 * SIDE, 2 * SIDE) for picture in pictures)
        assert all(low < high for picture in pictures for low, high in picture.getextrema())
    clips = _outputs(name, history, "SaveVideo")
    assert all(clip["images"][0]["filename"].endswith(".mp4") for clip in clips)
    assert len(clips) == (2 if "wan" in name else 0)
    (timeline,) = _outputs(name, history, "PreviewImage")
    assert _picture(server, timeline["images"][0]).size[0] > 600


@every_demo
def test_the_report_of_a_demo_compares_the_two_runs(name: str, runs: dict[str, Any]) -> None:
    history, _ = runs[name]
    (content,) = _outputs(name, history, "EncoreReport")[0]["encore_report"]
    run, baseline = content["run"], content["baseline"]
    assert (baseline["computed"], baseline["evaluations"]) == (STEPS, STEPS)
    assert (run["computed"], run["evaluations"]) == (5, STEPS)
    assert content["comparison"]["macs_reduction"] == pytest.approx(STEPS / 5)
    assert content["comparison"]["speedup"] == pytest.approx(baseline["seconds"] / run["seconds"])
    assert len(run["entries"]) == STEPS


@every_demo
def test_the_nodes_that_carry_a_cache_report_live(name: str, runs: dict[str, Any]) -> None:
    history, live = runs[name]
    carriers = {str(node["id"]) for node in _nodes(name, "EncoreApply", "EncoreMeasure")}
    assert {event["node"] for event in live} == carriers
    (content,) = _outputs(name, history, "EncoreReport")[0]["encore_report"]
    assert [event["run"] for event in live if event["run"]["reused"]] == [content["run"]]


@every_method
def test_a_method_runs_and_its_report_compares_what_it_reused(name: str, method_runs: dict[str, Any]) -> None:
    history, live = method_runs[name]
    assert history["status"]["status_str"] == "success", history["status"]["messages"]
    (content,) = _outputs(name, history, "EncoreReport")[0]["encore_report"]
    run, baseline = content["run"], content["baseline"]
    assert (baseline["computed"], run["evaluations"]) == (MORE, MORE)
    nothing = any(note.startswith("Everything was computed") for note in run["notes"])
    assert (content["comparison"]["macs_reduction"] > 1.0) == (not nothing)
    assert not (nothing and name.removesuffix("_demo") in FIXED), "it reuses by the step, whatever the picture"
    (carrier,) = _nodes(name, METHODS[name])
    assert [event["run"] for event in live if event["node"] == str(carrier["id"])] == [run]


@pytest.mark.parametrize("name", ["encore_skip_cache_demo", skip_workflows.FLUX, skip_workflows.DIT])
def test_the_branches_that_ship_are_of_the_demo_models_they_are_on(name: str, method_runs: dict[str, Any]) -> None:
    history, _ = method_runs[name]
    (content,) = _outputs(name, history, "EncoreReport")[0]["encore_report"]
    assert [note for note in content["run"]["notes"] if "samplings of 50 steps" not in note] == []  # the tests take fewer
