"""The base directory that a ComfyUI of ours runs in: it sees this pack, the models, and nobody's other nodes."""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import LaunchError
from .paths import HOSTS, ROOT

PACK = "encore"  # the folder name under which ComfyUI loads the pack
MODEL_PATHS = "model_paths.yaml"


@contextlib.contextmanager
def passing_home() -> Iterator[Path]:
    """A base directory for one run, removed with all that ComfyUI wrote into it."""
    HOSTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOSTS, prefix="home-") as folder:
        yield Path(folder)
        _unlink_pack(Path(folder))


def furnish(home: Path, comfyui: Path) -> None:
    """Fill `home`: the pack as the only custom node, and where models are found."""
    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (home / name).mkdir(parents=True, exist_ok=True)
    _unlink_pack(home)
    link(home / "custom_nodes" / PACK, ROOT)
    models = {folder.name: str(folder) for folder in (comfyui / "models").glob("*") if folder.is_dir()}
    (home / MODEL_PATHS).write_text(json.dumps({"comfyui": models}))  # JSON is YAML too; the pack itself names the demo models' folder


def link(place: Path, target: Path) -> None:
    """A symbolic link to a folder, or what Windows allows to everybody: a junction."""
    try:
        place.symlink_to(target, target_is_directory=True)
    except OSError as error:
        if (
            os.name == "nt"
            and subprocess.run(["cmd", "/c", "mklink", "/J", place, target], capture_output=True, check=False).returncode == 0
        ):
            return
        raise LaunchError(f"{place} cannot be made a link to {target}: {error}. Use a file system with links") from error


def _unlink_pack(home: Path) -> None:
    """Remove the link, never what it points to."""
    link = home / "custom_nodes" / PACK
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        link.rmdir()  # a junction; refuses a real folder that holds anything
