"""Loads the pack the way ComfyUI does, beside a real ComfyUI: the folder at COMFYUI_PATH."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOST = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "0.30.0"))

if not (HOST / "comfy").is_dir():
    raise pytest.UsageError(f"The tests need a ComfyUI and found none at {HOST}. Run ./encore test, which gets one.")
sys.path.insert(0, str(Path(__file__).parent))  # host_models
sys.path.insert(0, str(HOST))  # the pack's own root stays off the path: its nodes/ would shadow ComfyUI's nodes.py

from comfy.cli_args import args  # noqa: E402

args.cpu = True

spec = spec_from_file_location("pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
assert spec is not None
assert spec.loader is not None
pack = module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)

import host_models  # noqa: E402


@pytest.fixture(scope="module")
def models():
    """A small Flux and a small Wan of random weights, by family."""
    return {family: host_models.make(family) for family in ("flux", "wan")}


@pytest.fixture(params=["flux", "wan"])
def family(request):
    """Each family in turn."""
    return request.param


@pytest.fixture
def model(models, family):
    """The small model of the family."""
    return models[family]
