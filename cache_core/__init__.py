"""Feature caching for diffusion transformers. Pure PyTorch: knows nothing of ComfyUI."""

from .errors import CacheError, ProtocolError, RecipeError
from .history import History, Placement
from .ledger import Entry, Ledger
from .recipe import Recipe, Site, Target
from .run import Run
from .types import Case, Observation, Probe, Schedule, Step, StreamKey, Verdict

__all__ = [
    "CacheError",
    "Case",
    "Entry",
    "History",
    "Ledger",
    "Observation",
    "Placement",
    "Probe",
    "ProtocolError",
    "Recipe",
    "RecipeError",
    "Run",
    "Schedule",
    "Site",
    "Step",
    "StreamKey",
    "Target",
    "Verdict",
]
