"""Nodes that say when to reuse."""

import re
from typing import Any

from comfy_api.latest import io

from ...cache_core import Probe, RecipeError
from ...cache_core import policies as p
from ..methods.tables import CURVES, POLYNOMIALS
from .base import PolicyPart, real, whole

LIMIT = "below which steps are reused, 0 (compute all) to"
PROBES = {"first_block": Probe.FIRST_BLOCK, "modulated": Probe.MODULATED, "embedding": Probe.EMBEDDING, "latent": Probe.LATENT}
SHOWN = (
    "What is compared. first_block: what the first `head` blocks add to the picture's tokens. modulated: the first block's input after "
    "its norm, on Wan the projected time embedding. embedding: Wan's time embedding before that. latent: the sampler's state, at the "
    "sites guided and cond. The others need the site stack or block."
)
NONE = "none"


class EncorePolicyMask(PolicyPart):
    """A list of steps."""

    node_id, title = "EncorePolicyMask", "Policy: Mask"
    summary = "Computes the steps of a list and reuses at all others."

    @classmethod
    def inputs(cls) -> list[Any]:
        steps = "The steps to compute, counted from 0, with commas; a dash stands for all between two. Step 0 has to be among them."
        total = "Steps of the sampler that the list is for, 1 to 1000. With another number of steps everything is computed."
        return [io.String.Input("steps", default="0-3, 6, 9, 12, 15, 18-19", tooltip=steps), whole("total", 20, (1, 1000), total)]

    @classmethod
    def build(cls, steps: str, total: int) -> p.Mask:
        return p.Mask(numbers(steps), total)


def numbers(text: str) -> frozenset[int]:
    """The numbers that "0-3, 6" stands for."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise RecipeError(f"A mask is written as steps and ranges with commas, such as 0-3, 6, 9; found {part.strip()!r}.")
        first = int(match[1])
        found.update(range(first, int(match[2] or first) + 1))
    return frozenset(found)


class EncorePolicyInterval(PolicyPart):
    """One step in so many."""

    node_id, title = "EncorePolicyInterval", "Policy: Interval"
    summary = "Computes one step in so many (FORA, TaylorSeer); with growth, at intervals that become longer (Spectrum)."

    @classmethod
    def inputs(cls) -> list[Any]:
        growth = "How much longer the interval gets with each computed step, 0.0 (never) to 10."
        return [
            whole("every", 3, (1, 100), "One step in so many is computed, 1 (all) to 100."),
            real("growth", 0.0, (0.0, 10.0), growth),
        ]

    @classmethod
    def build(cls, every: int, growth: float) -> p.Interval | p.Growing:
        return p.Growing(every, growth) if growth else p.Interval(every)


class EncorePolicyChange(PolicyPart):
    """The change since the last computed step."""

    node_id, title = "EncorePolicyChange", "Policy: Change"
    summary = "Reuses while what is looked at has changed little since the last computed step (First-Block Cache, DBCache)."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            real("threshold", 0.1, (0.0, 10.0), f"Relative L1 change {LIMIT} 10.", 0.001),
            io.Combo.Input("probe", options=list(PROBES), default="first_block", tooltip=SHOWN),
        ]

    @classmethod
    def build(cls, threshold: float, probe: str) -> p.Change:
        return p.Change(threshold, PROBES[probe])


class EncorePolicyDrift(PolicyPart):
    """The changes from step to step, summed."""

    node_id, title = "EncorePolicyDrift", "Policy: Drift"
    summary = "Sums what is looked at changes from step to step, and reuses while the sum is small (TeaCache, DiCache)."

    @classmethod
    def inputs(cls) -> list[Any]:
        tokens = f"{SHOWN} tokens: the picture's tokens after the first `head` blocks, as DiCache compares."
        rescale = "A polynomial of TeaCache that each change goes through before it is summed. none: as it is."
        signed = "On: a polynomial's negative values shrink the sum, as published for its own model. Off: their size is added, for others."
        return [
            real("threshold", 0.2, (0.0, 10.0), f"Sum of relative L1 changes {LIMIT} 10.", 0.001),
            io.Combo.Input("probe", options=[*PROBES, "tokens"], default="modulated", tooltip=tokens),
            io.Combo.Input("polynomial", options=[NONE, *POLYNOMIALS], default=NONE, tooltip=rescale),
            io.Boolean.Input("signed", default=False, tooltip=signed),
        ]

    @classmethod
    def build(cls, threshold: float, probe: str, polynomial: str, signed: bool) -> p.Drift:
        coefficients = (1.0, 0.0) if polynomial == NONE else POLYNOMIALS[polynomial].coefficients
        if probe == "tokens":
            return p.Drift(threshold, Probe.FIRST_BLOCK, coefficients, "input", signed)
        return p.Drift(threshold, PROBES[probe], coefficients, "probe", signed)


class EncorePolicyMagnitude(PolicyPart):
    """A measured curve of residual sizes."""

    node_id, title = "EncorePolicyMagnitude", "Policy: Magnitude"
    summary = "Reuses while a measured curve of the residual's size foretells a small error (MagCache)."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            real("threshold", 0.12, (0.0, 10.0), f"Foretold error {LIMIT} 10.", 0.001),
            io.Combo.Input("curve", options=list(CURVES), default="flux", tooltip="The model that the curve was measured on."),
        ]

    @classmethod
    def build(cls, threshold: float, curve: str) -> p.Magnitude:
        return p.Magnitude(threshold, CURVES[curve])


class EncorePolicyOutputRate(PolicyPart):
    """The output's change, by that of the input."""

    node_id, title = "EncorePolicyOutputRate", "Policy: Output Rate"
    summary = "Estimates how much the output changes by how much the latent does, and reuses while the sum is small (EasyCache)."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [real("threshold", 0.1, (0.0, 10.0), f"Sum of estimated relative changes {LIMIT} 10.", 0.001)]

    @classmethod
    def build(cls, threshold: float) -> p.OutputRate:
        return p.OutputRate(threshold)


class EncorePolicyEmbedded(PolicyPart):
    """The difference of two forecasts."""

    node_id, title = "EncorePolicyEmbedded", "Policy: Embedded"
    summary = "Reuses while forecasts of two neighbouring orders agree, as an ODE solver's embedded pair judges a step. Ours."

    @classmethod
    def inputs(cls) -> list[Any]:
        order = "The higher of the two orders, 1 to 4: one above the predictor's. Each order keeps one result more."
        return [
            real("tolerance", 0.05, (0.0, 10.0), f"Difference of the forecasts, relative to the output, {LIMIT} 10.", 0.001),
            whole("order", 2, (1, 4), order),
        ]

    @classmethod
    def build(cls, tolerance: float, order: int) -> p.Embedded:
        return p.Embedded(tolerance, order)


class EncorePolicyAccumulatedError(PolicyPart):
    """The errors that the forecasts really had."""

    node_id, title = "EncorePolicyAccumulatedError", "Policy: Accumulated Error"
    summary = "Every computed step examines the forecast; reuses while the errors found foretell a small sum. Ours, in closed loop."

    @classmethod
    def inputs(cls) -> list[Any]:
        power = "How the error grows with the distance in sigma, 0.1 to 8: the predictor's order + 1. 1 suits Hold, 2 a line."
        return [
            real("tolerance", 0.05, (0.0, 10.0), f"Sum of expected relative errors {LIMIT} 10.", 0.001),
            real("power", 2.0, (0.1, 8.0), power),
        ]

    @classmethod
    def build(cls, tolerance: float, power: float) -> p.AccumulatedError:
        return p.AccumulatedError(tolerance, power)


POLICIES = [
    EncorePolicyMask,
    EncorePolicyInterval,
    EncorePolicyChange,
    EncorePolicyDrift,
    EncorePolicyMagnitude,
    EncorePolicyOutputRate,
    EncorePolicyEmbedded,
    EncorePolicyAccumulatedError,
]
