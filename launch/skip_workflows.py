"""The workflows of Skip-Cache on demo models with skip branches: demo-flux with trained ones put on it, and the demo DiT."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from .graph import filled, inserted, link
from .workflow import Info

CACHE, BRANCHES, LOADER, LABEL = "EncoreSkipCache", "EncoreSkipBranches", "EncoreSkipModel", "EncoreClassLabel"
FLUX, DIT = "encore_skip_branches_demo", "encore_skip_dit_demo"
SETTING = {"n": 3, "forecast": "line"}
CLASSES = {"red circle": 0, "blue star": 21, "green ring": 17, "yellow cross": 10}
GUIDANCE = 2.0  # of the demo DiT
NOTE = """## Skip-Cache with {what}, before and after

Long skip branches (arXiv:2411.17616) hand the first blocks' results to the last ones. One step in three is computed; in the two after
it only the first and the last block run, and the middle ones' result is forecast by a line.

The same seed twice, both on the model with its branches: every step computed (upper row), **Encore Skip Cache** (lower row).
**Encore Report** says what that saved, measured: seconds of the denoising loop and multiply-accumulates (MACs).

{more}"""
TRAINED = "The branches were trained for demo-flux and came with Encore. For a model of yours: **Encore Skip Train**."
LABELS = f"The classes are numbers, here of {', '.join(CLASSES)}. Without branches: demo-dit.safetensors in the loader."


def documents(object_info: Info, base: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and workflow of both, the id left out; `base` is the workflow of Encore Skip Cache on demo-flux."""
    yield FLUX, _with_branches(_begun(base, FLUX, "trained branches", TRAINED, object_info), object_info)
    yield DIT, _of_classes(_begun(base, DIT, "a class-conditional DiT", LABELS, object_info), object_info)


def _begun(base: Mapping[str, Any], name: str, what: str, more: str, object_info: Info) -> dict[str, Any]:
    """A copy of `base` with the cache's setting, the note and the names of its files."""
    made = copy.deepcopy(dict(base))
    (cache,) = _of(made, CACHE)
    cache |= filled(object_info[CACHE], SETTING, cache["inputs"])
    _of(made, "MarkdownNote")[0]["widgets_values"] = [NOTE.format(what=what, more=more)]
    for node, branch in zip(_of(made, "SaveImage"), ("uncached", "cached"), strict=True):
        node["widgets_values"][0] = f"encore/{name}_{branch}"
    return made


def _with_branches(made: dict[str, Any], object_info: Info) -> dict[str, Any]:
    """The branches between the loader and both rows."""
    (loader,) = _of(made, "UNETLoader")
    node = inserted(made, BRANCHES, (410, 880, 370, 90))
    node |= filled(object_info[BRANCHES], {"branches": "demo-flux-skip"}, [])
    node["outputs"] = [{"name": "model", "type": "MODEL", "links": _handed_over(made, loader, node)}]
    link(made, loader, "MODEL", node, "model")
    return made


def _of_classes(made: dict[str, Any], object_info: Info) -> dict[str, Any]:
    """The DiT in place of Flux, and class labels in place of captions."""
    (loader,), (guidance,), words = _of(made, "UNETLoader"), _of(made, "FluxGuidance"), _of(made, "EncoreDemoPrompt")
    _become(loader, LOADER, filled(object_info[LOADER], {"file": "demo-dit-skip.safetensors"}, []))
    loader["outputs"][0]["name"] = "model"
    given = " ".join(map(str, CLASSES.values())), "-1"
    for node, labels, title in zip(words, given, ("Classes, one for each picture", "No class"), strict=True):
        _become(node, LABEL, filled(object_info[LABEL], {"labels": labels}, []))
        node |= {"title": title, "size": [node["size"][0], 90]}
    made["links"] = [each for each in made["links"] if each[3] != guidance["id"]]
    words[0]["outputs"][0]["links"] = _handed_over(made, guidance, words[0])
    made["nodes"].remove(guidance)
    made["groups"][0]["title"] = "Demo DiT and classes"
    for node in _of(made, "KSampler"):
        node["widgets_values"][3] = GUIDANCE  # after the seed, what becomes of it, and the steps
    return made


def _of(made: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The nodes of a type."""
    return [node for node in made["nodes"] if node["type"] == kind]


def _become(node: dict[str, Any], kind: str, changes: Mapping[str, Any]) -> None:
    """Make another type of a node in its place."""
    node |= {"type": kind, "properties": {"Node name for S&R": kind}, **changes}


def _handed_over(made: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> list[int]:
    """Let what comes from the first output of one node come from that of another; the links' numbers."""
    moved = [each for each in made["links"] if each[1] == before["id"]]
    for each in moved:
        each[1] = after["id"]
    before["outputs"][0]["links"] = None
    return [each[0] for each in moved]
