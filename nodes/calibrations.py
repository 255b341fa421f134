"""Where calibrations lie: the user's in models/encore, those of the demo models in the pack."""

import logging
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..cache_core import CacheError
from ..cache_core.trace import Calibration, load, universal

OWN = Path(folder_paths.models_dir) / "encore"
SHIPPED = Path(__file__).parents[1] / "demo" / "calibrations"
SUFFIX = ".safetensors"
UNIVERSAL = "universal"


def names() -> list[str]:
    """Names of all calibrations, the universal one first."""
    return [UNIVERSAL, *_files()]


def find(name: str) -> Calibration:
    """The calibration of this name, the user's own before the pack's. Raises CacheError if it cannot be read."""
    if name == UNIVERSAL:
        return universal()
    path = _files().get(name, OWN / f"{name}{SUFFIX}")
    return _read(path, path.stat().st_mtime_ns) if path.exists() else load(path)


def readable() -> list[Calibration]:
    """All but the universal one that can be read; the log tells of the others."""
    found = []
    for name in _files():
        try:
            found.append(find(name))
        except CacheError as error:
            logging.warning("[Encore] %s", error)
    return found


def place_for(name: str) -> Path:
    """Where a new calibration of this name goes. Raises CacheError for a name that is no file name."""
    if not name.strip() or name == UNIVERSAL or Path(name).name != name or name.startswith("."):
        raise CacheError(f"A calibration cannot be called {name!r}. Use letters, digits, - and _, and not {UNIVERSAL!r}.")
    return OWN / f"{name}{SUFFIX}"


def workplace(name: str) -> Path:
    """The folder that keeps the trajectories of an unfinished calibration."""
    return OWN / f"{name}.unfinished"


def _files() -> dict[str, Path]:
    return {path.stem: path for folder in (SHIPPED, OWN) for path in sorted(folder.glob(f"*{SUFFIX}"))}


@lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> Calibration:
    return load(path)
