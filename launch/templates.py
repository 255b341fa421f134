"""Writes a before/after workflow for each method node, the demo workflow with it in place of Encore; `pairs`, Block Caching, branches.

python -m launch.templates http://127.0.0.1:8188     # a running ComfyUI that has this pack
"""

import copy
import json
import re
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from . import blockcache_workflows, pairs, skip_workflows
from .paths import WORKFLOWS
from .workflow import Info, inputs, is_widget, options

CATEGORY = "encore/methods"
BESIDES = {"EncoreSkipCache", "EncoreTrace"}  # of other categories, and used as a method is
ON_WAN = {"EncoreEasyCache", "EncoreDiCache", "EncoreLeMiCa", "EncorePAB", "EncoreFasterCache"}  # made or best known for video
GENTLER: dict[str, dict[str, Any]] = {  # where a node's defaults are too fast for a small model
    "EncoreEasyCache": {"reuse_threshold": 0.05},
    "EncoreTaylorSeer": {"fresh_threshold": 3, "max_order": 1},
    "EncoreHiCache": {"interval": 3},
    "EncoreFreqCa": {"interval": 3},
    "EncoreSkipCache": {"forecast": "demo-flux"},
}
CHOSEN: dict[str, dict[str, Any]] = {"EncoreTrace": {"speed": 3.0, "calibration": "demo-flux"}}  # that show more than the defaults
ROW = 26  # pixels of a widget
PANEL = 130  # pixels of title, socket and report
PLACE = uuid.UUID("5f3d3a52-2b0e-4a3c-9a06-7b0f2f6d4c11")  # names of workflows are made into their ids in here


def documents(object_info: Info) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and workflow of each method that the server knows."""
    for node_id, info in object_info.items():
        if info["category"] == CATEGORY or node_id in BESIDES:
            family = "wan" if node_id in ON_WAN else "flux"
            base = json.loads((WORKFLOWS / f"demo_{family}_before_after.json").read_text(encoding="utf-8"))
            made = document(base, node_id, info)
            yield f"{slug(info)}_demo", made
            if node_id == skip_workflows.CACHE:
                for name, other in skip_workflows.documents(object_info, made):
                    yield name, other | {"id": str(uuid.uuid5(PLACE, name))}
    for name, graph in pairs.graphs(object_info):
        yield name, graph.document(str(uuid.uuid5(PLACE, name)))
    for name, made in blockcache_workflows.documents(object_info):
        yield name, made | {"id": str(uuid.uuid5(PLACE, name))}


def slug(info: Info) -> str:
    """A node's display name as a file's."""
    return re.sub(r"\W+", "_", info["display_name"].lower())


def document(base: Mapping[str, Any], node_id: str, info: Info) -> dict[str, Any]:
    """The demo workflow `base` with the node `node_id` for its cached branch."""
    made = copy.deepcopy(dict(base))
    title, name = info["display_name"], slug(info)
    made["id"] = str(uuid.uuid5(PLACE, name))
    apply = next(node for node in made["nodes"] if node["type"] == "EncoreApply")
    widgets = [(widget, spec) for widget, spec, _ in inputs(info["input"], info.get("input_order")) if is_widget(spec)]
    values = {widget: options(spec)["default"] for widget, spec in widgets} | GENTLER.get(node_id, {}) | CHOSEN.get(node_id, {})
    apply["inputs"] = [apply["inputs"][0], *({"name": w, "type": _kind(spec), "widget": {"name": w}, "link": None} for w, spec in widgets)]
    apply |= {
        "type": node_id,
        "size": [apply["size"][0], PANEL + ROW * len(widgets)],
        "properties": {"Node name for S&R": node_id},
        "widgets_values": list(values.values()),
    }
    for node in made["nodes"]:
        if node["type"] == "MarkdownNote":
            node["widgets_values"] = [_note(title, info["description"], node_id in GENTLER)]
        elif node["type"] in ("SaveImage", "SaveVideo"):
            branch = "cached" if "_cached" in node["widgets_values"][0] else "uncached"
            node["widgets_values"][0] = f"encore/{name}_{branch}"
    for group in made["groups"]:
        group["title"] = title if group["title"] == "Encore 2x" else group["title"]
    return made


def _kind(spec: list[Any]) -> str:
    return spec[0] if isinstance(spec[0], str) else "COMBO"


def _note(title: str, description: str, gentler: bool) -> str:
    values = "Its values are gentler here than its defaults, which are made for large models. " if gentler else ""
    return (
        f"## {title}, before and after\n\n{description}\n\nThe same seed twice: every step computed (upper row), {title} (lower row). "
        "**Encore Report** says what that saved, measured: seconds of the denoising loop and multiply-accumulates (MACs).\n\n"
        f"{values}What each widget does: the help page of the node."
    )


if __name__ == "__main__":
    with urllib.request.urlopen(f"{sys.argv[1]}/object_info") as answer:
        for name, made in documents(json.load(answer)):
            (WORKFLOWS / f"{name}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
