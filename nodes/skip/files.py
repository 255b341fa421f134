"""Where branches lie: those of the demo models in the pack, the user's in models/encore/skip."""

from pathlib import Path

import folder_paths

from ...cache_core import CacheError

SHIPPED = Path(__file__).parents[2] / "demo" / "skip" / "files"
OWN = Path(folder_paths.models_dir) / "encore" / "skip"
SUFFIX = ".safetensors"
BRANCHES, FITTED = "branches", "fitted"  # the kinds, and their folders


def names(kind: str) -> list[str]:
    """Names of all files of a kind, the user's and those of the pack."""
    return sorted({path.stem for folder in (OWN, SHIPPED) for path in (folder / kind).glob(f"*{SUFFIX}")})


def find(kind: str, name: str) -> Path:
    """The file of this name, the user's own before the pack's. Raises CacheError if there is none."""
    found = next((path for folder in (OWN, SHIPPED) if (path := folder / kind / f"{name}{SUFFIX}").exists()), None)
    if found is None:
        raise CacheError(f"There is no {name}{SUFFIX} in models/encore/skip/{kind}. Choose one of: {', '.join(names(kind)) or 'none yet'}.")
    return found


def place_for(kind: str, name: str) -> Path:
    """Where a new file of this name goes. Raises CacheError for a name that is no file name."""
    if not name.strip() or Path(name).name != name or name.startswith("."):
        raise CacheError(f"A file of {kind} cannot be called {name!r}. Use letters, digits, - and _.")
    return OWN / kind / f"{name}{SUFFIX}"
