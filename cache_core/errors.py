"""Errors a user can act on. Each message says what was found, what was expected and what to change."""


class CacheError(RuntimeError):
    """Base of every error this package raises on purpose."""


class RecipeError(CacheError):
    """The parts of a recipe do not fit one another, or do not fit the model."""


class ProtocolError(CacheError):
    """An adapter called a run out of order: a fault of ours, not of the user."""
