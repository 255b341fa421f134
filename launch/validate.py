"""What is wrong with a saved workflow, told by /object_info, without running it."""

from collections.abc import Iterator, Mapping
from typing import Any

from .workflow import BYPASSED, MUTED, VIRTUAL, Info, Link, Node, Spec, Workflow, inputs, is_widget, options, widget_values

MODEL_FILES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
DYNAMIC_LINKS = ("COMFY_AUTOGROW_V3", "COMFY_DYNAMICSLOT_V3")  # their sockets have names of their own
NUMBERS: dict[str, tuple[type, ...]] = {"INT": (int,), "FLOAT": (int, float)}


def validate(document: Mapping[str, Any], object_info: Info, *, any_model: bool = False) -> list[str]:
    """One sentence for each fault, none for a workflow that loads without red nodes. `any_model` allows model files that are not here."""
    workflow = Workflow(document)
    return [
        *_link_faults(workflow),
        *(fault for node in workflow.nodes.values() for fault in _node_faults(workflow, node, object_info, any_model)),
    ]


def _node_faults(workflow: Workflow, node: Node, object_info: Info, any_model: bool) -> Iterator[str]:
    """The faults of one node."""
    name, info = f"Node {node['id']} ({node['type']})", object_info.get(node["type"])
    if node["type"] in VIRTUAL:
        return
    if info is None:
        yield f"{name}: ComfyUI knows no such node"
        return
    widgets = widget_values(node, info)
    linked = {entry["name"]: entry["link"] for entry in node.get("inputs") or [] if entry.get("link") is not None}
    for widget, (value, spec) in widgets.items():
        if widget not in linked:
            yield from (f"{name}: {widget} is {value!r}, {fault}" for fault in _value_faults(value, spec, any_model))
    if node.get("mode", 0) not in (MUTED, BYPASSED):
        yield from (f"{name}: {missing}" for missing in _missing(workflow, info, set(widgets), linked))
    names = {declared for declared, spec, _ in inputs(info["input"]) if spec[0] not in DYNAMIC_LINKS} | set(widgets)
    grown = tuple(declared + "." for declared, spec, _ in inputs(info["input"]) if spec[0] in DYNAMIC_LINKS)
    yield from (
        f"{name}: has a link to {socket}, which is no input of it"
        for socket in linked
        if socket not in names and not socket.startswith(grown or "\0")
    )


def _missing(workflow: Workflow, info: Mapping[str, Any], widgets: set[str], linked: Mapping[str, int]) -> Iterator[str]:
    """Required inputs that get nothing."""
    for declared, spec, required in inputs(info["input"]):
        if not required or declared in widgets or spec[0] in DYNAMIC_LINKS or options(spec).get("socketless"):
            continue
        if declared not in linked:
            yield f"the required {'widget' if is_widget(spec) else 'input'} {declared} has no {'value' if is_widget(spec) else 'link'}"
        elif workflow.source(linked[declared]) is None:
            yield f"the required input {declared} is linked to a node that does not run"


def _value_faults(value: Any, spec: Spec, any_model: bool) -> Iterator[str]:
    """What is wrong with a widget's value."""
    kind, limits = (spec[0] if isinstance(spec[0], str) else "COMBO"), options(spec)
    if kind in NUMBERS:
        if not isinstance(value, NUMBERS[kind]) or isinstance(value, bool):
            yield f"expected a number ({kind})"
        elif not limits.get("min", value) <= value <= limits.get("max", value):
            yield f"expected {limits.get('min')} to {limits.get('max')}"
    elif kind in ("STRING", "BOOLEAN"):
        if not isinstance(value, str if kind == "STRING" else bool):
            yield f"expected a {kind}"
    else:
        yield from _choice_faults(value, spec, any_model)


def _choice_faults(value: Any, spec: Spec, any_model: bool) -> Iterator[str]:
    """What is wrong with the choice of a combo."""
    choices = (
        spec[0]
        if isinstance(spec[0], list)
        else [option["key"] if isinstance(option, Mapping) else option for option in options(spec).get("options") or []]
    )
    if any_model and isinstance(value, str) and value.lower().endswith(MODEL_FILES):
        return
    open_list = not choices and not isinstance(spec[0], list)  # filled by the browser, or no combo at all
    if not open_list and not (set(value) <= set(choices) if isinstance(value, list) else value in choices):
        shown = ", ".join(map(str, choices[:8])) + (", ..." if len(choices) > 8 else "")
        yield f"expected one of: {shown or '(nothing there)'}"


def _link_faults(workflow: Workflow) -> Iterator[str]:
    """Links whose ends do not agree with the nodes."""
    for number, link in workflow.links.items():
        fault = _link_fault(workflow, number, link)
        if fault:
            yield f"Link {number}: {fault}"
    for node in workflow.nodes.values():
        for entry in node.get("inputs") or []:
            if entry.get("link") is not None and entry["link"] not in workflow.links:
                yield f"Node {node['id']} ({node['type']}): {entry['name']} has link {entry['link']}, which does not exist"


def _link_fault(workflow: Workflow, number: int, link: Link) -> str | None:
    """The first thing wrong with one link."""
    origin, target = workflow.nodes.get(link.origin), workflow.nodes.get(link.target)
    if origin is None or target is None:
        return f"joins node {link.origin} to node {link.target}, one of which does not exist"
    outputs, sockets = origin.get("outputs") or [], target.get("inputs") or []
    if not link.slot < len(outputs) or not link.target_slot < len(sockets):
        return (
            f"goes from output {link.slot} of node {link.origin} to input {link.target_slot} of node {link.target}, which has no such place"
        )
    if sockets[link.target_slot].get("link") != number or number not in (outputs[link.slot].get("links") or []):
        return f"is not the one that node {link.origin} or node {link.target} names there"
    if not _fits(str(outputs[link.slot]["type"]), str(sockets[link.target_slot]["type"])):
        return f"carries {outputs[link.slot]['type']} to an input of type {sockets[link.target_slot]['type']}"
    return None


def _fits(given: str, wanted: str) -> bool:
    """Whether a socket takes a type; types are lists with commas, * is any."""
    free = {"*", "COMFY_MATCHTYPE_V3", ""}
    return bool(({given, wanted} & free) or set(given.upper().split(",")) & set(wanted.upper().split(",")))
