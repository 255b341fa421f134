"""Methods whose computed steps were searched beforehand, once for all prompts."""

from typing import Any

from comfy_api.latest import io

from ...cache_core import published as p
from .base import Choice, Method, whole
from .gated import ONE
from .tables import AUTO, GOLDEN, LEMICA, mask_names, pick

SPEED = (
    "How many times fewer steps are computed, 1.0 (all) to 6.0. The model's published mask nearest to it is taken and fitted to the "
    "sampler's steps. Counts only where mask is auto."
)
MASK = (
    "auto: by the loaded model and by speed. A name: that published list of steps, as it is where the sampler takes as many steps, else "
    "carried over along the noise levels."
)


def _widgets(masks: Any) -> list[Any]:
    return [
        io.Combo.Input("mask", options=[AUTO, *mask_names(masks)], default=AUTO, tooltip=MASK),
        io.Float.Input("speed", default=2.0, min=1.0, max=6.0, step=0.1, tooltip=SPEED),
    ]


def _masks(model: Any, masks: Any, mask: str, speed: float) -> tuple[Any, Any, tuple[str, ...]]:
    """What to pace by, the masks to choose among, and the notes."""
    found, _, notes = pick(model, masks, {name: name for name in masks})
    return (speed, found, notes) if mask == AUTO else (mask_names(masks)[mask], found, ())


class EncoreLeMiCa(Method):
    """LeMiCa's lists of steps."""

    node_id, title = "EncoreLeMiCa", "LeMiCa"
    summary = "LeMiCa (arXiv:2511.00090): computes the steps of a list searched for the least global error, and repeats the residual."
    aliases = ("lemica", "schedule")
    memory = ONE

    @classmethod
    def widgets(cls) -> list[Any]:
        return _widgets(LEMICA)

    @classmethod
    def choose(cls, model: Any, mask: str, speed: float) -> Choice:
        pace, masks, notes = _masks(model, LEMICA, mask, speed)
        return Choice(p.lemica(pace, masks), notes)


class EncoreGoldenPath(Method):
    """The searched masks of the Golden Path Hypothesis."""

    node_id, title = "EncoreGoldenPath", "Golden Path"
    summary = "Golden Path (arXiv:2609.39343): computes the steps of a searched mask, and repeats or extends the model's output."
    aliases = ("golden path", "budcache", "meancache", "dpcache", "schedule")

    @classmethod
    def widgets(cls) -> list[Any]:
        order = "What stands in for a skipped step: 0 the last output, as published, 1 the line through the last two."
        return [*_widgets(GOLDEN), whole("order", 0, 0, 1, order)]

    @classmethod
    def choose(cls, model: Any, mask: str, speed: float, order: int) -> Choice:
        pace, masks, notes = _masks(model, GOLDEN, mask, speed)
        return Choice(p.golden(pace, masks, order), notes)
