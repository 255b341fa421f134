"""The layering rules of the design, checked on the import statements."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOST = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "execution", "server"}
ORDER = ["errors", "measure", "solver", "types", "history", "masks", "tables", "trace", "blockcache", "policies", "predictors"]
ORDER += ["recipe", "fallback", "ledger", "stream", "run", "published", "skip", "var"]
CORE = sorted((ROOT / "cache_core").glob("**/*.py"))
SOURCES = [path for folder in ("cache_core", "nodes", "demo", "launch", "bench") for path in sorted((ROOT / folder).glob("**/*.py"))]


def name(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """Dotted names that a file imports; relative ones keep their dots."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {"." * node.level + (node.module or alias.name) for alias in node.names}
    return found


@pytest.mark.parametrize("path", CORE, ids=name)
def test_the_core_knows_no_host_and_nothing_above_it(path):
    depth = len(path.relative_to(ROOT / "cache_core").parts)
    for found in imports(path):
        assert found.lstrip(".").split(".")[0] not in HOST
        assert len(found) - len(found.lstrip(".")) <= depth


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_modules_import_downwards_only(path):
    parts = path.relative_to(ROOT / "cache_core").with_suffix("").parts
    if parts[0] not in ORDER:
        return
    for found in imports(path):
        level = len(found) - len(found.lstrip("."))
        if level == len(parts):
            other = found.lstrip(".").split(".")[0]
            assert ORDER.index(other) <= ORDER.index(parts[0]), f"{name(path)} imports {other}, which is above it"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) < 300


def test_only_the_adapters_and_the_schemas_know_comfyui():
    for path in sorted((ROOT / "nodes").glob("*.py")):
        roots = {found.split(".")[0] for found in imports(path)} & HOST
        allowed = {"comfy_api"} | ({"comfy", "folder_paths"} if path.name == "demo.py" else set())
        allowed |= {"folder_paths"} if path.name in ("calibrations.py", "var.py") else set()
        allowed |= {"comfy"} if path.name == "relay.py" else set()
        allowed |= {"server"} if path.name == "live.py" else set()
        assert roots <= allowed, f"{name(path)} imports {roots - allowed}"
