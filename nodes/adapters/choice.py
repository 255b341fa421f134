"""A recipe that is chosen when a sampling begins, from what is known of it only then."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...cache_core import Ledger, Recipe, Schedule

Listener = Callable[[Ledger], None]


@dataclass(frozen=True, slots=True)
class Situation:
    """A sampling that is about to begin: the model (ModelPatcher), the solver's name, CFG scale and the latent's shape [B, C, ...]."""

    model: Any
    schedule: Schedule
    sampler: str
    cfg: float
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """A recipe for one sampling, notes on it for the report, and what to call when that sampling ended well."""

    recipe: Recipe
    notes: tuple[str, ...] = ()
    finish: Listener | None = None


Chooser = Callable[[Situation], Choice]


def choose(recipe: Recipe | Chooser, situation: Situation) -> Choice:
    """The recipe itself, or what the function answers to the situation."""
    return Choice(recipe) if isinstance(recipe, Recipe) else recipe(situation)
