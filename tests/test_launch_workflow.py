"""A saved workflow becomes the prompt that the browser would have sent, and its faults are named."""

import copy
from typing import Any

import pytest
from pack.launch.errors import LaunchError
from pack.launch.validate import validate
from pack.launch.workflow import Workflow, to_prompt

SEED = ["INT", {"default": 0, "min": 0, "max": 100, "control_after_generate": True}]
FORMAT = {"key": "png", "inputs": {"required": {"depth": ["COMBO", {"options": ["8", "16"]}]}}}
INFO: dict[str, Any] = {
    "Load": {"input": {"required": {"file": [["a.safetensors"], {}]}}, "output": ["MODEL"]},
    "Patch": {"input": {"required": {"model": ["MODEL"], "strength": ["FLOAT", {"min": 0.0, "max": 1.0}]}}, "output": ["MODEL"]},
    "Sample": {
        "input": {"required": {"model": ["MODEL"], "seed": SEED, "steps": ["INT", {"min": 1, "max": 50}], "name": [["euler", "heun"]]}},
        "output": ["LATENT"],
    },
    "Save": {
        "input": {
            "required": {"latent": ["LATENT"], "format": ["COMFY_DYNAMICCOMBO_V3", {"options": [FORMAT]}], "prefix": ["STRING", {}]},
            "optional": {"sharp": ["BOOLEAN", {"default": False}]},
        },
        "output": [],
    },
}


def socket(name: str, kind: str, link: int | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link, **more}


def node(number: int, kind: str, inputs: list[Any], outputs: list[tuple[str, list[int]]], values: Any, mode: int = 0) -> dict[str, Any]:
    out = [{"name": kind, "type": kind, "links": links} for kind, links in outputs]
    return {"id": number, "type": kind, "mode": mode, "inputs": inputs, "outputs": out, "widgets_values": values}


@pytest.fixture
def saved() -> dict[str, Any]:
    """Load -> Patch -> Reroute -> Sample -> Save, and a note."""
    return {
        "nodes": [
            node(1, "Load", [], [("MODEL", [1])], ["a.safetensors"]),
            node(2, "Patch", [socket("model", "MODEL", 1)], [("MODEL", [2])], [0.5]),
            node(3, "Reroute", [socket("", "*", 2)], [("MODEL", [3])], []),
            node(4, "Sample", [socket("model", "MODEL", 3)], [("LATENT", [4])], [7, "randomize", 20, "heun"]),
            node(5, "Save", [socket("latent", "LATENT", 4)], [], ["png", "16", "pictures/one"]),
            node(6, "Note", [], [], ["read me"]),
        ],
        "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "*"], [3, 3, 0, 4, 0, "MODEL"], [4, 4, 0, 5, 0, "LATENT"]],
    }


def prompt_of(saved: dict[str, Any]) -> dict[str, Any]:
    return {number: entry["inputs"] for number, entry in to_prompt(Workflow(saved), INFO).items()}


def test_widgets_go_by_position_and_links_by_number(saved: dict[str, Any]) -> None:
    assert prompt_of(saved) == {
        "1": {"file": "a.safetensors"},
        "2": {"model": ["1", 0], "strength": 0.5},
        "4": {"model": ["2", 0], "seed": 7, "steps": 20, "name": "heun"},
        "5": {"latent": ["4", 0], "format": "png", "format.depth": "16", "prefix": "pictures/one", "sharp": False},
    }


def test_links_may_be_written_as_mappings(saved: dict[str, Any]) -> None:
    before = prompt_of(saved)
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    saved["links"] = [dict(zip(names, link, strict=True)) for link in saved["links"]]
    assert prompt_of(saved) == before


def test_widget_values_may_be_written_by_name(saved: dict[str, Any]) -> None:
    before = prompt_of(saved)["4"]
    saved["nodes"][3]["widgets_values"] = {"seed": 7, "steps": 20, "name": "heun"}
    assert prompt_of(saved)["4"] == before


def test_a_bypassed_node_hands_on_its_input_of_the_same_type(saved: dict[str, Any]) -> None:
    saved["nodes"][1]["mode"] = 4
    prompt = prompt_of(saved)
    assert "2" not in prompt
    assert prompt["4"]["model"] == ["1", 0]


def test_a_muted_node_gives_nothing(saved: dict[str, Any]) -> None:
    saved["nodes"][1]["mode"] = 2
    assert "model" not in prompt_of(saved)["4"]
    assert any("linked to a node that does not run" in fault for fault in validate(saved, INFO))


def test_a_primitive_takes_the_place_of_the_widget_that_was_made_an_input(saved: dict[str, Any]) -> None:
    saved["nodes"][3]["inputs"].append(socket("steps", "INT", 5, widget={"name": "steps"}))
    saved["nodes"].append(node(7, "PrimitiveNode", [], [("INT", [5])], [33, "fixed"]))
    saved["links"].append([5, 7, 0, 4, 1, "INT"])
    assert prompt_of(saved)["4"] == {"model": ["2", 0], "seed": 7, "steps": 33, "name": "heun"}
    assert validate(saved, INFO) == []


def test_a_subgraph_is_refused_by_name(saved: dict[str, Any]) -> None:
    saved["definitions"] = {"subgraphs": [{"id": "abc", "name": "Upscale"}]}
    saved["nodes"].append(node(8, "abc", [], [], []))
    with pytest.raises(LaunchError, match="subgraph Upscale"):
        Workflow(saved)


def test_an_api_prompt_is_told_from_a_saved_workflow() -> None:
    with pytest.raises(LaunchError, match="no saved workflow"):
        Workflow({"1": {"class_type": "Load", "inputs": {}}})


def test_an_unknown_node_is_named(saved: dict[str, Any]) -> None:
    saved["nodes"][1]["type"] = "Elsewhere"
    with pytest.raises(LaunchError, match="Elsewhere"):
        to_prompt(Workflow(saved), INFO)
    assert validate(saved, INFO) == ["Node 2 (Elsewhere): ComfyUI knows no such node"]


def test_a_sound_workflow_has_no_faults(saved: dict[str, Any]) -> None:
    assert validate(saved, INFO) == []


@pytest.mark.parametrize(
    ("place", "values", "fault"),
    [
        (0, ["b.safetensors"], "Node 1 (Load): file is 'b.safetensors', expected one of: a.safetensors"),
        (1, [2.0], "Node 2 (Patch): strength is 2.0, expected 0.0 to 1.0"),
        (3, [7, "fixed", 20.5, "heun"], "Node 4 (Sample): steps is 20.5, expected a number (INT)"),
        (3, [7, "fixed", 20, "magic"], "Node 4 (Sample): name is 'magic', expected one of: euler, heun"),
        (4, ["png", "16", 3], "Node 5 (Save): prefix is 3, expected a STRING"),
        (4, ["png", "24", "x"], "Node 5 (Save): format.depth is '24', expected one of: 8, 16"),
    ],
)
def test_a_bad_widget_value_is_named(saved: dict[str, Any], place: int, values: list[Any], fault: str) -> None:
    saved["nodes"][place]["widgets_values"] = values
    assert validate(saved, INFO) == [fault]


def test_a_model_file_that_is_not_here_can_be_allowed(saved: dict[str, Any]) -> None:
    saved["nodes"][0]["widgets_values"] = ["flux1-dev.safetensors"]
    assert validate(saved, INFO, any_model=True) == []


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ([1, 9, 0, 2, 0, "MODEL"], "one of which does not exist"),
        ([1, 1, 3, 2, 0, "MODEL"], "has no such place"),
        ([1, 2, 0, 2, 0, "MODEL"], "is not the one that node 2"),
    ],
)
def test_a_wrong_link_is_named(saved: dict[str, Any], link: list[Any], fault: str) -> None:
    saved["links"][0] = link
    assert any(found.startswith("Link 1:") and fault in found for found in validate(saved, INFO))


def test_a_link_of_the_wrong_type_is_named(saved: dict[str, Any]) -> None:
    saved["nodes"][0]["outputs"][0]["type"] = "LATENT"
    assert validate(saved, INFO) == ["Link 1: carries LATENT to an input of type MODEL"]


def test_a_missing_required_input_is_named(saved: dict[str, Any]) -> None:
    broken = copy.deepcopy(saved)
    broken["nodes"][4]["inputs"][0]["link"] = None
    broken["nodes"][3]["outputs"][0]["links"] = []
    broken["links"].pop()
    assert validate(broken, INFO) == ["Node 5 (Save): the required input latent has no link"]
