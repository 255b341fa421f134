"""From the workflow that a browser saves to the prompt that ComfyUI's /prompt takes.

A saved workflow holds widgets by position and links by number; /object_info says which input each widget is.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LaunchError

Info = Mapping[str, Any]  # the answer of /object_info
Node = Mapping[str, Any]  # one node of a saved workflow
Spec = list[Any]  # [type, options] of one input

MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
VIRTUAL = (*NOTES, "Reroute", "PrimitiveNode")  # they live in the browser only
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a combo whose choice brings inputs of its own
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COLORS", "CURVE", "BOUNDING_BOX", "RANGE", DYNAMIC)
AFTER_GENERATE = ("fixed", "increment", "decrement", "randomize")  # what a seed's second widget can say


@dataclass(frozen=True, slots=True)
class Link:
    """An edge from output `slot` of node `origin` to input `target_slot` of node `target`."""

    origin: int
    slot: int
    target: int
    target_slot: int
    kind: str


@dataclass(frozen=True, slots=True)
class Constant:
    """The value of a PrimitiveNode, which takes the place of a link."""

    value: Any


Source = tuple[str, int] | Constant | None  # where an input comes from: (node id, output slot), a value, nothing


class Workflow:
    """A saved workflow with its nodes and links by number."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read the JSON document; nested graphs are refused, for their nodes are not in it."""
        if not isinstance(document.get("nodes"), list):
            raise LaunchError("This is no saved workflow: found no list of nodes. Save it with Workflow, Save (not Export (API))")
        nested = {graph["id"]: graph.get("name", "?") for graph in (document.get("definitions") or {}).get("subgraphs") or []}
        used = sorted({str(nested[node["type"]]) for node in document["nodes"] if node["type"] in nested})
        if used:
            raise LaunchError(
                f"The workflow holds the subgraph {', '.join(used)}, expected plain nodes. Unpack it in the browser and save again"
            )
        self.nodes: dict[int, Node] = {int(node["id"]): node for node in document["nodes"]}
        self.links: dict[int, Link] = dict(_read_link(link) for link in document.get("links", []))

    def active(self) -> Iterator[Node]:
        """The nodes that run."""
        return (node for node in self.nodes.values() if node.get("mode", 0) not in (MUTED, BYPASSED) and node["type"] not in VIRTUAL)

    def source(self, number: int | None) -> Source:
        """What link `number` carries, through reroutes, bypassed nodes and primitives."""
        link = self.links.get(number) if number is not None else None
        node = self.nodes.get(link.origin) if link else None
        if link is None or node is None or node.get("mode", 0) == MUTED:
            return None
        if node["type"] == "PrimitiveNode":
            return Constant((node.get("widgets_values") or [None])[0])
        if node["type"] == "Reroute":
            return self.source(node["inputs"][0].get("link"))
        if node.get("mode", 0) == BYPASSED:
            return self.source(_passed_through(node, link.slot))
        return str(link.origin), link.slot


def _read_link(link: Any) -> tuple[int, Link]:
    """A link as the browser writes it: a list, or in newer files a mapping."""
    if isinstance(link, Mapping):
        link = [link["id"], link["origin_id"], link["origin_slot"], link["target_id"], link["target_slot"], link["type"]]
    number, origin, slot, target, target_slot, kind = link[:6]
    return int(number), Link(int(origin), int(slot), int(target), int(target_slot), str(kind))


def _passed_through(node: Node, slot: int) -> int | None:
    """The link of that input of a bypassed node which its output `slot` hands on: the one of the same place, else of the same type."""
    inputs = node.get("inputs") or []
    kind = node["outputs"][slot]["type"]
    places = [*([slot] if slot < len(inputs) else []), *range(len(inputs))]
    return next((inputs[place].get("link") for place in places if inputs[place]["type"] == kind), None)


def load(path: Path) -> Workflow:
    """The workflow in a file."""
    try:
        return Workflow(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, FileNotFoundError) as error:
        raise LaunchError(f"{path} cannot be read as a workflow: {error}") from error


def is_widget(spec: Spec) -> bool:
    """Whether the browser shows an input as a widget."""
    kind = spec[0]
    return not options(spec).get("forceInput") and (isinstance(kind, list) or kind in WIDGETS)


def options(spec: Spec) -> Mapping[str, Any]:
    """The options of an input, which may be left out."""
    return spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}


def inputs(declared: Mapping[str, Any], order: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Spec, bool]]:
    """The declared inputs in the browser's order: name, spec, whether it is required."""
    for section in ("required", "optional"):
        specs = declared.get(section) or {}
        for name in (order or {}).get(section) or specs:
            if name in specs:
                yield name, specs[name], section == "required"


def widget_values(node: Node, info: Mapping[str, Any]) -> dict[str, tuple[Any, Spec]]:
    """Each widget's saved value and spec, by the name it has in a prompt."""
    saved = node.get("widgets_values") or []
    declared = list(inputs(info["input"], info.get("input_order")))
    if isinstance(saved, Mapping):
        return {name: (saved[name], spec) for name, spec, _ in declared if is_widget(spec) and name in saved}
    return dict(_take(declared, list(saved), ""))


def _take(declared: list[tuple[str, Spec, bool]], left: list[Any], prefix: str) -> Iterator[tuple[str, tuple[Any, Spec]]]:
    """Hand the saved values out to the widgets in order; `left` shrinks. A seed has a second value that is no input."""
    for name, spec, _ in declared:
        if not is_widget(spec) or not (left or "default" in options(spec)):
            continue
        value = left.pop(0) if left else options(spec)["default"]  # a workflow older than the widget
        yield prefix + name, (value, spec)
        if spec[0] == DYNAMIC:
            yield from _take(chosen(spec, value), left, f"{prefix}{name}.")
        elif left and _has_control(name, spec) and left[0] in AFTER_GENERATE:
            left.pop(0)


def chosen(spec: Spec, key: Any) -> list[tuple[str, Spec, bool]]:
    """The inputs that the choice `key` of a dynamic combo brings."""
    return next((list(inputs(option["inputs"])) for option in options(spec)["options"] if option["key"] == key), [])


def _has_control(name: str, spec: Spec) -> bool:
    """Whether the browser adds a widget that says what becomes of the value after a run."""
    return bool(options(spec).get("control_after_generate")) or (spec[0] == "INT" and name in ("seed", "noise_seed"))


def to_prompt(workflow: Workflow, object_info: Info) -> dict[str, dict[str, Any]]:
    """The prompt of the nodes that run, by node id: class_type and inputs, links as [node id, output slot]."""
    unknown = sorted({node["type"] for node in workflow.active()} - set(object_info))
    if unknown:
        raise LaunchError(
            f"ComfyUI does not know the nodes {', '.join(unknown)}. Install or update what brings them; the log says what did not load"
        )
    return {str(node["id"]): _entry(workflow, node, object_info[node["type"]]) for node in workflow.active()}


def _entry(workflow: Workflow, node: Node, info: Mapping[str, Any]) -> dict[str, Any]:
    """One node of the prompt: its widgets, then its links, which win over a widget of the same name."""
    values = {name: value for name, (value, _) in widget_values(node, info).items()}
    for entry in node.get("inputs") or []:
        if entry.get("link") is None:
            continue
        source = workflow.source(entry["link"])
        if isinstance(source, Constant):
            values[entry["name"]] = source.value
        elif source is not None:
            values[entry["name"]] = list(source)
    return {"class_type": node["type"], "inputs": values, "_meta": {"title": node.get("title") or node["type"]}}
