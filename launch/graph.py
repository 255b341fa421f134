"""Writes a workflow as the browser saves it: nodes with their places, links by number, groups round them."""

from collections.abc import Mapping, Sequence
from typing import Any

from .workflow import Info, inputs, is_widget, options

Place = tuple[int, int, int, int]  # x, y, width, height
Output = tuple[int, str]  # a node's number and the name of its output
NOTE = {"color": "#432", "bgcolor": "#653"}
GROUP = "#3f789e"


class Graph:
    """Nodes are added from left to right; sockets and widgets are those that the server says a node has."""

    def __init__(self, object_info: Info) -> None:
        self.info = object_info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []

    def note(self, place: Place, text: str) -> None:
        """A note for who reads the workflow."""
        node = self._node("MarkdownNote", place, "Read me")
        node |= {"properties": {}, "widgets_values": [text], **NOTE}

    def add(self, kind: str, place: Place, given: Mapping[str, Any], title: str | None = None) -> int:
        """A node; `given` has a value for a widget, an Output for a socket. Its number."""
        info, node = self.info[kind], self._node(kind, place, title)
        for name, spec, _ in inputs(info["input"], info.get("input_order")):
            widget = is_widget(spec)
            kind_of = spec[0] if isinstance(spec[0], str) else "COMBO"
            entry: dict[str, Any] = {"name": name, "type": kind_of, **({"widget": {"name": name}} if widget else {}), "link": None}
            node["inputs"].append(entry)
            if widget:
                node["widgets_values"].append(given[name] if name in given else self._default(spec))
                if len(spec) > 1 and spec[1].get("control_after_generate"):
                    node["widgets_values"].append("fixed")
            elif name in given:
                entry["link"] = self._link(given[name], node["id"], len(node["inputs"]) - 1, kind_of)
        names = info.get("output_name") or info["output"]
        node["outputs"] = [{"name": name, "type": made, "links": None} for name, made in zip(names, info["output"], strict=True)]
        return int(node["id"])

    def group(self, title: str, place: Place) -> None:
        """A frame round nodes."""
        made = {"id": len(self.groups) + 1, "title": title, "bounding": list(place), "color": GROUP, "flags": {}}
        self.groups.append(made)

    def document(self, number: str) -> dict[str, Any]:
        """The whole, under an id."""
        for node in self.nodes:
            for slot, output in enumerate(node["outputs"]):
                output["links"] = [link[0] for link in self.links if link[1:3] == [node["id"], slot]] or None
        about = {"id": number, "revision": 0, "last_node_id": len(self.nodes), "last_link_id": len(self.links)}
        rest = {"links": self.links, "groups": self.groups, "config": {}, "extra": {}, "version": 0.4}
        return about | {"nodes": self.nodes} | rest

    def _node(self, kind: str, place: Place, title: str | None) -> dict[str, Any]:
        x, y, width, height = place
        number = len(self.nodes) + 1
        node: dict[str, Any] = {"id": number, "type": kind, "pos": [x, y], "size": [width, height], "flags": {}}
        node |= {"order": number - 1, "mode": 0, "inputs": [], "outputs": []}
        node |= {"title": title} if title else {}
        node |= {"properties": {"Node name for S&R": kind}, "widgets_values": []}
        self.nodes.append(node)
        return node

    def _link(self, source: Output, target: int, slot: int, kind: str) -> int:
        origin = self.nodes[source[0] - 1]
        output = [made["name"] for made in origin["outputs"]].index(source[1])
        self.links.append([len(self.links) + 1, source[0], output, target, slot, kind])
        return len(self.links)

    @staticmethod
    def _default(spec: Sequence[Any]) -> Any:
        """A widget's own default; a combo without one begins with its first choice."""
        told: Mapping[str, Any] = spec[1] if len(spec) > 1 else {}
        choices = spec[0] if isinstance(spec[0], list) else told.get("options", [""])
        first = choices[0] if choices else ""
        return told.get("default", first["key"] if isinstance(first, Mapping) else first)


def filled(info: Mapping[str, Any], given: Mapping[str, Any], linked: list[dict[str, Any]]) -> dict[str, Any]:
    """Inputs and widget values of a node; sockets in `linked` keep their links."""
    links = {entry["name"]: entry.get("link") for entry in linked}
    entries, values = [], []
    for name, spec, _ in inputs(info["input"], info.get("input_order")):
        kind = spec[0] if isinstance(spec[0], str) else "COMBO"
        entry: dict[str, Any] = {"name": name, "type": kind}
        if is_widget(spec):
            entry |= {"widget": {"name": name}}
            values.append(given.get(name, options(spec).get("default")))
        entries.append(entry | {"link": links.get(name)})
    return {"inputs": entries, "widgets_values": values}


def inserted(made: dict[str, Any], kind: str, place: tuple[int, int, int, int]) -> dict[str, Any]:
    """A new node at x, y of a width and height, without inputs and outputs yet."""
    made["last_node_id"] += 1
    node: dict[str, Any] = {"id": made["last_node_id"], "type": kind, "pos": list(place[:2]), "size": list(place[2:]), "flags": {}}
    node |= {"order": len(made["nodes"]), "mode": 0, "inputs": [], "outputs": []}
    node |= {"properties": {"Node name for S&R": kind}, "widgets_values": []}
    made["nodes"].append(node)
    return node


def link(made: dict[str, Any], source: dict[str, Any], output: str, target: dict[str, Any], name: str) -> None:
    """Link a named output to a named input."""
    made["last_link_id"] += 1
    slot = [given["name"] for given in source["outputs"]].index(output)
    into = [given["name"] for given in target["inputs"]].index(name)
    kind = source["outputs"][slot]["type"]
    made["links"].append([made["last_link_id"], source["id"], slot, target["id"], into, kind])
    source["outputs"][slot]["links"] = [*(source["outputs"][slot]["links"] or []), made["last_link_id"]]
    target["inputs"][into]["link"] = made["last_link_id"]
