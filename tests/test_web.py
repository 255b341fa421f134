"""The canvas side says the same as the Python side: names, fields and help pages."""

import re
from pathlib import Path
from typing import Any

import pytest
from comfy_api.latest import io
from pack.cache_core import Ledger
from pack.cache_core.ledger import Entry
from pack.nodes import NODES
from pack.nodes.live import EVENT

WEB = Path(__file__).parents[1] / "web"
SCRIPT = (WEB / "report.js").read_text()
SCHEMAS = {schema.node_id: schema for schema in (node.define_schema() for node in NODES)}
ENTRY = Entry(evaluation=0, step=0, sigma=1.0, computed=True, reason="", score=None, macs=0)


def test_the_script_listens_to_the_event_that_is_sent() -> None:
    assert f'EVENT = "{EVENT}"' in SCRIPT


def test_the_script_draws_on_nodes_that_exist() -> None:
    assert set(re.findall(r"\bEncore[A-Z]\w+", SCRIPT)) == {"EncoreMeasure", "EncoreReport"} <= set(SCHEMAS)


def test_every_node_that_gives_a_model_can_be_told_what_happened_on_it() -> None:
    carriers = [schema for schema in SCHEMAS.values() if any(made.io_type == "MODEL" for made in schema.outputs)]
    assert all(io.Hidden.unique_id in schema.hidden for schema in carriers)
    assert all(schema.node_id.startswith("Encore") for schema in carriers)
    assert len(carriers) > 10


def test_the_script_reads_only_what_a_ledger_tells() -> None:
    ledger: dict[str, Any] = Ledger("recipe", "source", "guided", 8, entries=[ENTRY]).to_dict()
    assert set(re.findall(r"\b(?:run|baseline|each)\??\.(\w+)", SCRIPT)) <= set(ledger)
    assert set(re.findall(r"\bentry\.(\w+)", SCRIPT)) <= set(ledger["entries"][0])


def test_the_script_never_makes_markup_of_text_and_loads_nothing_from_elsewhere() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", SCRIPT)
    assert set(re.findall(r"https?://[^\"'\s]+", SCRIPT)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


@pytest.mark.parametrize("node_id", SCHEMAS)
def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(node_id: str) -> None:
    page = (WEB / "docs" / f"{node_id}.md").read_text()
    assert page.startswith(f"# {SCHEMAS[node_id].display_name}\n")
    for given in SCHEMAS[node_id].inputs:
        assert re.search(rf"^- \*\*{given.id}\*\*", page, re.MULTILINE), f"{node_id} has no line for the input {given.id}"
    for made in SCHEMAS[node_id].outputs:
        if made.display_name not in (None, "model"):
            assert re.search(rf"^- \*\*{made.display_name}\*\*", page, re.MULTILINE), f"no line for the output {made.display_name}"


def test_there_are_no_help_pages_of_nodes_that_are_gone() -> None:
    assert {page.stem for page in (WEB / "docs").iterdir()} == set(SCHEMAS)
