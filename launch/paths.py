"""Where things lie. Everything made here is ignored by git."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
HOSTS = ROOT / ".comfyui"
LOGS = ROOT / ".logs"
OUTPUT = ROOT / "output"
DEMO = OUTPUT / "demo"
WORKFLOWS = ROOT / "workflows"


def venv_python(venv: Path) -> Path:
    """The interpreter of a virtual environment on this system."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
