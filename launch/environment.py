"""The Python that runs ComfyUI: a user's own where there is one, else `.venv`, filled layer by layer."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .errors import LaunchError
from .paths import ROOT, VENV, venv_python
from .pip import LOG, pip

TORCH = "2.13.0"
TORCHVISION = "0.16.2"  # the last one whose Python part imports without its compiled part, which fits only its own torch
TORCHAUDIO = "2.11.0"
TORCH_FAMILY = ("torch", "torchvision", "torchaudio", "torchsde", "kornia", "spandrel")  # installed apart, or not needed
NEEDED_BYTES = 4 * 1024**3
ABSENT = """
import importlib.metadata as m, json, sys
def absent(name):
    try: m.version(name)
    except m.PackageNotFoundError: return True
print(json.dumps([n for n in sys.argv[1:] if absent(n)]))
"""
TORCH_VERSION = "import torch; print(torch.__version__, torch.version.cuda or torch.version.hip or '-')"


def requirements(text: str) -> dict[str, str]:
    """The lines of a ComfyUI requirements.txt by distribution name, without torch and its family."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    named = {re.split(r"[\s<>=!~;\[]", line)[0].lower(): line for line in lines if line and not line.startswith("-")}
    return {name: line for name, line in named.items() if name not in TORCH_FAMILY}


def ask(python: Path, code: str, *arguments: str) -> str | None:
    """What `python -c code` prints, or None when it fails."""
    try:
        done = subprocess.run([python, "-I", "-c", code, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def absent(python: Path, names: Sequence[str]) -> list[str]:
    """Those of the distributions that `python` lacks."""
    answer = ask(python, ABSENT, *names)
    return list(names) if answer is None else list(json.loads(answer))


def own_python(comfyui: Path) -> Path | None:
    """The interpreter with which the user runs the ComfyUI at `comfyui`, if it has all that is needed."""
    portable = comfyui.parent / "python_embeded" / "python.exe"
    places = [
        Path(sys.executable),
        venv_python(comfyui / ".venv"),
        venv_python(comfyui / "venv"),
        venv_python(comfyui.parent / "venv"),
        portable,
    ]
    wanted = ["torch", "torchvision", *requirements((comfyui / "requirements.txt").read_text())]
    return next((python for python in places if python.exists() and not absent(python, wanted)), None)


def make_venv() -> Path:
    """The interpreter of `.venv`, which is made anew when it is missing or broken. A torch of the calling Python is shared."""
    python = venv_python(VENV)
    if ask(python, "import pip, sys; print(sys.prefix != sys.base_prefix)") == "True":
        return python
    free = shutil.disk_usage(ROOT).free
    if free < NEEDED_BYTES:
        raise LaunchError(
            f"{free / 1024**3:.1f} GB are free on the disk of {ROOT}, the set-up needs {NEEDED_BYTES / 1024**3:.0f}. Free some"
        )
    print("Setting up .venv (once)", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False)
    if done.returncode or ask(python, "import pip") is None:
        raise LaunchError(
            f"{sys.executable} cannot make a virtual environment; install its venv package (python3-venv): {done.stdout}{done.stderr}"
        )
    if ask(Path(sys.executable), "import torch") is not None:
        _share_packages(python)
    return python


def _share_packages(python: Path) -> None:
    """Let the venv see the packages of the calling Python, so that its torch is not downloaded again."""
    inside = ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))")
    shared = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (Path(str(inside)) / "shared.pth").write_text("\n".join(shared) + "\n")


def add_layer(name: str, content: object, install: Callable[[], None]) -> None:
    """Install a layer of `.venv` unless its stamp says that this very content stands; a broken-off one is done again."""
    digest = hashlib.sha256(json.dumps([TORCH, content]).encode()).hexdigest()[:16]
    stamp = VENV / "encore" / f"{name}-{digest}"
    if stamp.exists():
        return
    install()
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()


def add_tools(python: Path) -> None:
    """What unpacking a source distribution needs."""
    add_layer("tools", [], lambda: pip(python, "build tools", ["install", "setuptools<81", "wheel"]))


def add_torch(python: Path) -> None:
    """Torch as the index or the calling Python brings it (CPU or CUDA), and the companions that fit it."""

    def install() -> None:
        if ask(python, TORCH_VERSION) is None:
            pip(python, f"torch {TORCH} (the largest part)", ["install", f"torch=={TORCH}"])
        version, _, device = (ask(python, TORCH_VERSION) or "").partition(" ")
        if not version:
            raise LaunchError(f"torch is installed but does not import. Delete {VENV} and call again", LOG)
        lone = device == "-" and sys.platform == "linux"  # wheels of the companions for Linux are built against CUDA
        pip(
            python,
            "torch's companions",
            ["install", *(_lone_companions(python) if lone else ["torchvision", "torchaudio", f"torch=={version.split('+')[0]}"])],
        )
        pip(python, "torchsde", ["install", "--no-deps", "torchsde", "trampoline"])

    add_layer("torch", TORCHVISION, install)


def _lone_companions(python: Path) -> list[str]:
    """Arguments of pip for a CPU torch on Linux: releases whose Python part works alone."""
    answer = ask(python, "import sys; print(*sys.version_info[:2])") or "0 0"
    if answer not in ("3 10", "3 11"):
        found = answer.replace(" ", ".")
        raise LaunchError(
            f"A CPU torch on Linux runs ComfyUI with Python 3.10 or 3.11, not {found}. Delete {VENV} and call python3.11 ./encore"
        )
    return ["--no-deps", f"torchvision=={TORCHVISION}", f"torchaudio=={TORCHAUDIO}"]


def add_fit(python: Path) -> None:
    """A last look, when all is installed: torch's companions must import beside it."""
    add_layer("fit", TORCHVISION, lambda: _drop_misfit(python))


def _drop_misfit(python: Path) -> None:
    """Delete torchaudio's compiled part where it does not fit this torch; its Python part is all that ComfyUI's start needs."""
    if ask(python, "import torchaudio") is None:
        folder = ask(python, "import importlib.util as u; print(u.find_spec('torchaudio').submodule_search_locations[0])")
        for library in (Path(str(folder)) / "lib").glob("*.so"):
            library.unlink()
    for name in ("torchvision", "torchaudio"):
        if ask(python, f"import {name}") is None:
            raise LaunchError(f"{name} does not import beside this torch. Delete {VENV} and call again, or install a {name} that fits", LOG)


def add_host(python: Path, comfyui: Path, *, exact: bool) -> None:
    """The requirements of one ComfyUI: with its own pins when `exact`, else only what is missing altogether."""
    lines = requirements((comfyui / "requirements.txt").read_text())

    def install() -> None:
        wanted = list(lines) if exact else absent(python, list(lines))
        if wanted:
            pip(python, f"ComfyUI's requirements ({comfyui.name})", ["install", *(lines[name] for name in wanted)])

    add_layer(f"host-{comfyui.name}", [lines, exact], install)


def add_dev(python: Path) -> None:
    """The pinned tools of the tests, and the rival that they compare with."""
    tools, rivals = ROOT / "requirements-dev.txt", ROOT / "requirements-rivals.txt"

    def install() -> None:
        pip(python, "test tools", ["install", "-r", tools])
        pip(python, "a rival to compare with", ["install", "--no-deps", "-r", rivals])

    add_layer("dev", [tools.read_text(), rivals.read_text()], install)
