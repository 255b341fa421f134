"""Feature caching for diffusion transformers. Pure PyTorch: knows nothing of ComfyUI."""

from .errors import CacheError, ProtocolError, RecipeError
from .history import History, Placement
from .ledger import Entry, Ledger
from .recipe import Recipe, Site, Span, Target
from .run import Run
from .types import Branch, Case, Observation, Place, Probe, Schedule, Step, StreamKey, Verdict

__all__ = [
    "Branch",
    "CacheError",
    "Case",
    "Entry",
    "History",
    "Ledger",
    "Observation",
    "Place",
    "Placement",
    "Probe",
    "ProtocolError",
    "Recipe",
    "RecipeError",
    "Run",
    "Schedule",
    "Site",
    "Span",
    "Step",
    "StreamKey",
    "Target",
    "Verdict",
]
