"""Nodes that say what stands in for a step that is not computed."""

from typing import Any

from comfy_api.latest import io

from ...cache_core import predictors as p
from ..methods.tables import CURVES
from .base import PREDICTOR, PredictorPart, real, whole

AXES = [axis.value for axis in p.Axis]
AXIS = "What counts as time. sigma: the noise level, the true one. step: the sampler's steps, as published. progress: steps / all steps."


class EncorePredictorHold(PredictorPart):
    """The last result."""

    node_id, title = "EncorePredictorHold", "Predictor: Hold"
    summary = "Repeats the last computed result. Keeps 1."

    @classmethod
    def inputs(cls) -> list[Any]:
        return []

    @classmethod
    def build(cls) -> p.Hold:
        return p.Hold()


class EncorePredictorLagrange(PredictorPart):
    """The polynomial through the last results."""

    node_id, title = "EncorePredictorLagrange", "Predictor: Lagrange"
    summary = "Extends the polynomial through the last results along the noise level. Order 1, a line, is the safe choice."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            whole(
                "order", 1, (0, 4), "Order of the polynomial, 0 to 4; order + 1 results are kept. Above 1 it can explode on uneven steps."
            )
        ]

    @classmethod
    def build(cls, order: int) -> p.Lagrange:
        return p.Lagrange(order)


class EncorePredictorTaylor(PredictorPart):
    """TaylorSeer's series."""

    node_id, title = "EncorePredictorTaylor", "Predictor: Taylor"
    summary = "TaylorSeer's series of finite differences (arXiv:2503.06923), as published."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            whole("order", 2, (0, 4), "Order of the series, 0 to 4; order + 1 results are kept."),
            io.Combo.Input("axis", options=AXES, default=p.Axis.STEP.value, tooltip=AXIS),
        ]

    @classmethod
    def build(cls, order: int, axis: str) -> p.Taylor:
        return p.Taylor(order, p.Axis(axis))


class EncorePredictorHermite(PredictorPart):
    """HiCache's polynomials."""

    node_id, title = "EncorePredictorHermite", "Predictor: Hermite"
    summary = "HiCache's scaled Hermite polynomials (arXiv:2508.16984), as published."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            whole("order", 2, (0, 4), "Order of the series, 0 to 4; order + 1 results are kept."),
            real("scale", 0.5, (0.01, 1.0), "How far the forecast goes, 0.01 to 1.0. Published: 0.5; 0.71 extends a line exactly."),
        ]

    @classmethod
    def build(cls, order: int, scale: float) -> p.Hermite:
        return p.Hermite(order, scale)


class EncorePredictorChebyshev(PredictorPart):
    """Spectrum's fitted series."""

    node_id, title = "EncorePredictorChebyshev", "Predictor: Chebyshev"
    summary = "Spectrum's ridge fit of a Chebyshev series to all results so far (arXiv:2603.01623)."

    @classmethod
    def inputs(cls) -> list[Any]:
        relative = "On: fits the differences to the newest result, so that what does not change stays. Off: as published."
        return [
            whole("degree", 4, (0, 8), "Degree of the series, 0 to 8. Higher follows faster changes, and noise."),
            real("ridge", 0.1, (0.001, 10.0), "How strongly the series is kept small, 0.001 to 10."),
            real("blend", 0.5, (0.0, 1.0), "Share of the series, 0.0 to 1.0; the rest is a line through the last two results."),
            whole("window", 100, (2, 1000), "Most results kept, 2 to 1000. Fewer take less memory."),
            io.Boolean.Input("relative", default=False, tooltip=relative),
        ]

    @classmethod
    def build(cls, degree: int, ridge: float, blend: float, window: int, relative: bool) -> p.Chebyshev:
        return p.Chebyshev(degree, ridge, blend, window, relative)


class EncorePredictorAdamsBashforth(PredictorPart):
    """A skipped run as one multistep step."""

    node_id, title = "EncorePredictorAdamsBashforth", "Predictor: Adams-Bashforth"
    summary = "Makes a skipped run one Adams-Bashforth step (AB-Cache, arXiv:2504.10540). For velocities and the sampler euler."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [whole("order", 2, (1, 5), "Order of the method, 1 to 5; as many results are kept. 2 is safe.")]

    @classmethod
    def build(cls, order: int) -> p.AdamsBashforth:
        return p.AdamsBashforth(order)


class EncorePredictorTwoAnchor(PredictorPart):
    """DiCache's way between two results."""

    node_id, title = "EncorePredictorTwoAnchor", "Predictor: Two Anchor"
    summary = (
        "Goes on between the last two results as far as the first blocks went (DiCache, arXiv:2508.17356). Needs the probe first_block."
    )

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            real("least", 1.0, (0.0, 10.0), "Least way, in lengths of the last one, 0 to 10. Published: 1."),
            real("most", 1.5, (0.0, 10.0), "Longest way, 0 to 10. Published: 1.5 for FLUX, 2 for Wan."),
        ]

    @classmethod
    def build(cls, least: float, most: float) -> p.TwoAnchor:
        return p.TwoAnchor((least, most))


class EncorePredictorFrequencySplit(PredictorPart):
    """One predictor for what is coarse, one for what is fine."""

    node_id, title = "EncorePredictorFrequencySplit", "Predictor: Frequency Split"
    summary = "Forecasts low frequencies with one predictor and high ones with another (FreqCa, arXiv:2510.08669)."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            PREDICTOR.Input("low", tooltip="For the low frequencies. FreqCa holds them."),
            PREDICTOR.Input("high", tooltip="For the high frequencies. FreqCa takes Hermite of order 2."),
            real("cutoff", 0.1, (0.0, 1.0), "Where they part, as a share of the highest frequency, 0.0 (all high) to 1.0 (all low)."),
        ]

    @classmethod
    def build(cls, low: p.Predictor, high: p.Predictor, cutoff: float) -> p.FrequencySplit:
        return p.FrequencySplit(low, high, cutoff)


class EncorePredictorGuidanceBands(PredictorPart):
    """FasterCache's difference of the two prompts."""

    node_id, title = "EncorePredictorGuidanceBands", "Predictor: Guidance Bands"
    summary = (
        "Rebuilds the negative prompt's result from the positive's and their last difference (FasterCache, arXiv:2410.19355). "
        "Needs the site uncond and the target residual."
    )

    @classmethod
    def inputs(cls) -> list[Any]:
        grows = "frequencies of the difference grow with each reused step, 0.1 to 9.9. Published: 1.1; 1 holds them."
        return [
            real("low", 1.1, (0.1, 9.9), f"Factor by which the low {grows} Counts at timesteps from 99 to 901."),
            real("high", 1.1, (0.1, 9.9), f"Factor by which the high {grows} Counts below timestep 301."),
        ]

    @classmethod
    def build(cls, low: float, high: float) -> p.GuidanceBands:
        return p.GuidanceBands(low, high)


class EncorePredictorScaled(PredictorPart):
    """MagCache's residual, with its size."""

    node_id, title = "EncorePredictorScaled", "Predictor: Scaled"
    summary = "Repeats the last result, made as large as a measured curve says that it is by now (MagCache, arXiv:2506.09045)."

    @classmethod
    def inputs(cls) -> list[Any]:
        curve = "The model that the curve was measured on: the residual of all its blocks, at the site stack."
        scale = "On: the curve's size, which the paper foretells. Off: as it is, which its code repeats."
        return [
            io.Combo.Input("curve", options=list(CURVES), default="flux", tooltip=curve),
            io.Boolean.Input("scale", default=True, tooltip=scale),
        ]

    @classmethod
    def build(cls, curve: str, scale: bool) -> p.Scaled:
        return p.Scaled(CURVES[curve][0], scale)


class EncorePredictorDamped(PredictorPart):
    """A forecast that is trusted less."""

    node_id, title = "EncorePredictorDamped", "Predictor: Damped"
    summary = "Goes only a part of the way from the last result to another predictor's forecast."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            PREDICTOR.Input("predictor", tooltip="The predictor to damp: any weighted sum of results, such as Lagrange."),
            real("factor", 0.7, (0.0, 1.0), "Part of the way, 0.0 (hold) to 1.0 (the forecast as it is)."),
        ]

    @classmethod
    def build(cls, predictor: p.Weighted, factor: float) -> p.Damped:
        return p.Damped(predictor, factor)


class EncorePredictorCorrected(PredictorPart):
    """A forecast that learns from its last error."""

    node_id, title = "EncorePredictorCorrected", "Predictor: Corrected"
    summary = "Adds a part of the error that another predictor would have made at the newest result. Ours."

    @classmethod
    def inputs(cls) -> list[Any]:
        return [
            PREDICTOR.Input("predictor", tooltip="The predictor to correct: any weighted sum of results, such as Lagrange."),
            real("gain", 0.5, (-1.0, 1.0), "Part of that error that is added, -1.0 to 1.0; 0 changes nothing."),
        ]

    @classmethod
    def build(cls, predictor: p.Weighted, gain: float) -> p.Corrected:
        return p.Corrected(predictor, gain)


PREDICTORS = [
    EncorePredictorHold,
    EncorePredictorLagrange,
    EncorePredictorTaylor,
    EncorePredictorHermite,
    EncorePredictorChebyshev,
    EncorePredictorAdamsBashforth,
    EncorePredictorTwoAnchor,
    EncorePredictorFrequencySplit,
    EncorePredictorGuidanceBands,
    EncorePredictorScaled,
    EncorePredictorDamped,
    EncorePredictorCorrected,
]
