"""The workflows of Block Caching on the demo models: their before/after workflow with a schedule, its plots and Encore Block Cache."""

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

from .graph import filled, inserted, link
from .paths import WORKFLOWS
from .workflow import Info

FAMILIES = ("flux", "wan")
REDUCTIONS = {"flux": 1.9, "wan": 1.7}  # of the schedules that ship, for which the alignments were made
CACHE, SCHEDULE = "EncoreBlockCache", "EncoreBlockSchedule"
NOTE = """## Block Caching, before and after

Each transformer block is computed at the steps of its own schedule; at the others its last residual stands in.

The same seed twice: every step computed (upper row), Block Caching (lower row). **Encore Report** says what that saved, measured.
Beneath: the profile of the blocks' change, and the schedule that follows from it.

Profile and alignment, if one is chosen, came with Encore. For a model of yours: **Encore Block Profile**, **Encore Block
Schedule**, **Encore Align (fit)**, each once."""


def name_of(family: str) -> str:
    """The workflow's file."""
    return f"block_caching_demo_{family}"


def documents(object_info: Info) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and workflow of each demo model, the id left out."""
    for family in FAMILIES:
        base = json.loads((WORKFLOWS / f"demo_{family}_before_after.json").read_text(encoding="utf-8"))
        yield name_of(family), document(base, family, object_info)


def document(base: Mapping[str, Any], family: str, object_info: Info) -> dict[str, Any]:
    """The before/after workflow `base` with the nodes of Block Caching for its cached branch."""
    made = copy.deepcopy(dict(base))
    cache = next(node for node in made["nodes"] if node["type"] == "EncoreApply")
    cache |= filled(object_info[CACHE], {"alignment_file": f"demo-{family}-fit"}, cache["inputs"])
    cache |= {"type": CACHE, "size": [320, 260], "properties": {"Node name for S&R": CACHE}}
    for node in made["nodes"]:
        if node["type"] == "MarkdownNote":
            node["widgets_values"] = [NOTE]
        elif node["type"] in ("SaveImage", "SaveVideo"):
            branch = "cached" if "_cached" in node["widgets_values"][0] else "uncached"
            node["widgets_values"][0] = f"encore/{name_of(family)}_{branch}"
    row = next(group for group in made["groups"] if group["title"] == "Encore 2x")
    row["title"] = "Block Caching"
    x, top = row["bounding"][0], row["bounding"][1] + row["bounding"][3] + 40
    schedule = inserted(made, SCHEDULE, (x + 20, top + 60, 320, 330))
    schedule |= filled(object_info[SCHEDULE], {"file": f"demo-{family}", "macs_reduction": REDUCTIONS[family]}, [])
    names, kinds = object_info[SCHEDULE]["output_name"], object_info[SCHEDULE]["output"]
    schedule["outputs"] = [{"name": name, "type": kind, "links": None} for name, kind in zip(names, kinds, strict=True)]
    link(made, schedule, "schedule", cache, "schedule")
    for n, plot in enumerate(("profile_plot", "plot")):
        preview = inserted(made, "PreviewImage", (x + 390 + 390 * n, top + 60, 360, 420))
        preview["inputs"] = [{"name": "images", "type": "IMAGE", "link": None}]
        link(made, schedule, plot, preview, "images")
    place = [x, top, 1160, 500]
    made["groups"].append(
        {"id": len(made["groups"]) + 1, "title": "Profile and schedule", "bounding": place, "color": row["color"], "flags": {}}
    )
    return made
