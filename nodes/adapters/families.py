"""Which family a loaded model belongs to."""

from typing import Any

FAMILIES = {"Flux": "flux", "WAN21": "wan"}


def family_of(model: Any) -> str:
    """Family of a ModelPatcher's model by the host's class or one of its bases; "other" if we know none of them."""
    names = (base.__name__ for base in type(model.model).__mro__)
    return next((FAMILIES[name] for name in names if name in FAMILIES), "other")
