"""Published methods, and ours, each as the recipe it amounts to. Read this file to see how they differ."""

from typing import Any

from .blockcache import Alignment, BlockSchedule
from .history import Placement
from .masks import PublishedMask
from .policies import (
    ALARM,
    AccumulatedError,
    AtMost,
    Carried,
    Change,
    Collected,
    Drift,
    Embedded,
    Growing,
    Interval,
    Magnitude,
    Mask,
    Never,
    OutputRate,
    Paced,
    PerBranch,
    PerPlace,
    Policy,
    Retained,
    Scheduled,
    Shown,
    Tail,
    Traced,
    Warmup,
    Within,
)
from .predictors import (
    Aligned,
    Axis,
    Chebyshev,
    Fitted,
    FrequencySplit,
    GuidanceBands,
    Hermite,
    Hold,
    Lagrange,
    Learning,
    Observer,
    Profiled,
    Pupil,
    Taylor,
    TwoAnchor,
)
from .recipe import Recipe, Site, Span, Target
from .tables import FLUX_CHANGE, FLUX_GOLDEN, FLUX_LEMICA, FLUX_MAGNITUDE, SCM_CODE, WAN_GOLDEN, Curve, Polynomial
from .trace import Calibration, ForQuality, ForSpeed, Given, Plan, Trajectory, universal
from .types import Branch, Probe

RESIDUAL, STACK = Target.RESIDUAL, Site.STACK
BLOCK, BRANCH = Site.BLOCK, Site.BRANCH  # these take gigabytes on large models: memory.kept_bytes


def encore(speed: float = 2.0, family: str = "flux", site: Site = Site.GUIDED) -> Recipe:
    """The default: a published mask carried over to the schedule at hand, order-1 forecast of the guided velocity.

    `family` picks the masks: "wan" has its own, every other model takes those of FLUX.1-dev.
    """
    masks = WAN_GOLDEN if family == "wan" else FLUX_GOLDEN
    return Recipe(Paced(speed, masks), Lagrange(1), site, name=f"Encore {speed:g}x", source=masks[0].source)


def trace(speed: float = 2.0, calibration: Calibration | None = None, site: Site = Site.GUIDED, guarded: bool = True) -> Recipe:
    """TRACE, ours: weights and mask fitted so that the sampling returns to the uncached trajectory."""
    return planned(ForSpeed(calibration or universal(), speed), f"TRACE {speed:g}x", site, guarded)


def trace_to(error: float = 0.01, calibration: Calibration | None = None, site: Site = Site.GUIDED, guarded: bool = True) -> Recipe:
    """TRACE that computes as many steps as it takes to keep the expected error of the final latent at `error` of its norm."""
    return planned(ForQuality(calibration or universal(), error), f"TRACE to {error:g}", site, guarded)


def planned(planner: ForSpeed | ForQuality, name: str, site: Site = Site.GUIDED, guarded: bool = True) -> Recipe:
    """TRACE by any planner; `guarded`: exams that go wrong have further steps computed."""
    source = f"calibration {planner.calibration.name}"
    return Recipe(Traced(planner, ALARM if guarded else 0.0), Fitted(planner), site, name=name, source=source)


def collect(into: Trajectory) -> Recipe:
    """Computes everything and adds it to a trajectory, which a calibration is made of."""
    return Recipe(Collected("calibrating", into=into), Hold(), name="Encore Calibrate")


def follow(plan: Plan) -> Recipe:
    """Follows a plan on the schedule that it was made for."""
    return Recipe(Traced(Given(plan), 0.0), Fitted(Given(plan)), name=f"plan of {len(plan.computed)} steps")


def measure() -> Recipe:
    """Computes everything; examines at every evaluation how well order 1 would have forecast it."""
    return Recipe(Never("measuring"), Lagrange(1), name="Encore Measure")


def masked(computed: frozenset[int], total: int, order: int = 1, site: Site = Site.GUIDED) -> Recipe:
    """A mask of one's own with a Lagrange forecast."""
    return Recipe(Mask(computed, total), Lagrange(order), site, name=f"mask {len(computed)} of {total}")


def embedded(tolerance: float = 0.05, site: Site = Site.GUIDED) -> Recipe:
    """Ours: reuse while forecasts of order 1 and 2 agree, as an ODE solver's embedded pair judges a step."""
    return Recipe(Embedded(tolerance, 2), Lagrange(1), site, name="embedded pair")


def examined(tolerance: float = 0.05, site: Site = Site.GUIDED) -> Recipe:
    """Ours: reuse while the error that the exams at computed evaluations foretell stays small (closed loop)."""
    return Recipe(AccumulatedError(tolerance, 2.0), Lagrange(1), site, name="closed loop")


def fora(every: int = 3, warmup: int = 0) -> Recipe:
    """FORA's interval on the whole output: one evaluation in `every`, the last result in between. FORA itself is `fora_branches`."""
    return Recipe(Warmup(Interval(every), warmup), Hold(), name="FORA-Lite", source="arXiv:2407.01425")


def teacache(threshold: float = 0.4, table: Polynomial = FLUX_CHANGE, fitted: bool = True) -> Recipe:
    """TeaCache: summed change of the modulated input, or of the time embedding, rescaled by a polynomial fitted on the model.

    Where the polynomial was not `fitted` on the model at hand, its absolute value is summed, as ComfyUI-TeaCache does: the
    sum as published may fall there, and never come back.
    """
    drift = Drift(threshold, table.probe, table.coefficients, signed=fitted)
    return Recipe(Tail(Warmup(drift, table.first), table.last), Hold(), STACK, RESIDUAL, name="TeaCache", source=table.source)


def magcache(threshold: float = 0.24, longest: int = 5, retained: float = 0.1, curves: tuple[Curve, ...] = (FLUX_MAGNITUDE,)) -> Recipe:
    """MagCache: error foretold from a curve of residual sizes; the first fraction `retained` is computed."""
    policy = Retained(AtMost(Magnitude(threshold, curves), longest), retained)
    return Recipe(policy, Hold(), STACK, RESIDUAL, name="MagCache", source=curves[0].source)


def easycache(threshold: float = 0.2, start: float = 0.15, end: float = 0.95) -> Recipe:
    """EasyCache: output change estimated from the latent's change; output minus input is kept."""
    policy = Within(OutputRate(threshold), start, end)
    return Recipe(policy, Hold(), Site.COND, RESIDUAL, name="EasyCache", source="arXiv:2507.02860")


def first_block_cache(threshold: float = 0.12, start: float = 0.0, end: float = 1.0, longest: int = -1) -> Recipe:
    """First-Block Cache: change of the first block's residual since the last computed evaluation; `longest` -1 is no limit."""
    policy: Policy[Any] = Within(Change(threshold), start, end)
    policy = policy if longest < 0 else AtMost(policy, longest)
    return Recipe(policy, Hold(), STACK, RESIDUAL, name="First-Block Cache", source="github.com/chengzeyi/Comfy-WaveSpeed", head=1)


def dbcache(threshold: float = 0.08, front: int = 8, back: int = 0, warmup: int = 8, longest: int = -1) -> Recipe:
    """DBCache: the first `front` blocks always run and are the probe, the last `back` always run too."""
    policy: Policy[Any] = Warmup(Change(threshold), warmup)
    policy = policy if longest < 0 else AtMost(policy, longest)
    return Recipe(policy, Hold(), STACK, RESIDUAL, name="DBCache", source="github.com/vipshop/cache-dit", head=front, tail=back)


def dbcache_masked(mask: PublishedMask = SCM_CODE[0], front: int = 1, back: int = 0) -> Recipe:
    """DBCache by a step mask: at its cached steps `front` and `back` blocks run, and the others' last residual stands in."""
    return Recipe(Carried(mask), Hold(), STACK, RESIDUAL, name=f"DBCache {mask.name}", source=mask.source, head=front, tail=back)


# Threshold, clip, how the retained share is rounded, and steps computed at the end in the authors' code.
DICACHE = {"flux": (0.4, (1.0, 1.5), 1.0, 1), "wan": (0.08, (1.0, 2.0), 0.5, 0)}


def dicache(threshold: float | None = None, family: str = "flux", retained: float = 0.2, front: int = 1) -> Recipe:
    """DiCache: summed change of tokens after the first block, past a fifth of the steps; the residual moves between two anchors.

    `family` gives the bounds of gamma, both ends, and, where `threshold` is None, the threshold. Those of FLUX serve other families.
    """
    published, clip, more, last = DICACHE.get(family, DICACHE["flux"])
    drift = Drift(published if threshold is None else threshold, Probe.FIRST_BLOCK, of="input")
    policy = Tail(Retained(drift, retained, more), last)
    return Recipe(policy, TwoAnchor(clip), STACK, RESIDUAL, name="DiCache", source="arXiv:2508.17356", head=front)


def taylorseer(every: int = 6, order: int = 2, warmup: int = 3) -> Recipe:
    """TaylorSeer-Lite: an interval, and the Taylor series of the last features; one tensor instead of one a module."""
    policy = Warmup(Interval(every), warmup)
    return Recipe(policy, Taylor(order, Axis.STEP), STACK, name="TaylorSeer-Lite", source="arXiv:2503.06923")


def hicache(every: int = 6, order: int = 2, warmup: int = 3) -> Recipe:
    """HiCache-Lite: TaylorSeer-Lite with scaled Hermite polynomials in place of powers."""
    return Recipe(Warmup(Interval(every), warmup), Hermite(order), STACK, name="HiCache-Lite", source="arXiv:2508.16984")


def freqca(every: int = 5, warmup: int = 3) -> Recipe:
    """FreqCa: low frequencies held, high ones forecast by Hermite polynomials, of the residual of all blocks."""
    predictor = FrequencySplit(Hold(), Hermite(2, 0.71))
    return Recipe(Warmup(Interval(every), warmup), predictor, STACK, RESIDUAL, name="FreqCa", source="arXiv:2510.08669")


def spectrum(window: float = 2.0, growth: float = 0.75, warmup: int = 5, tail: int = 3, curve: Chebyshev | None = None) -> Recipe:
    """Spectrum: ridge fit of a Chebyshev series to all features so far, at intervals that grow by `growth` (3 for more speed)."""
    policy = Tail(Growing(window, growth, warmup), tail)
    return Recipe(policy, curve or Chebyshev(), STACK, name="Spectrum", source="arXiv:2603.01623")


def lemica(pace: float | PublishedMask = 2.0, masks: tuple[PublishedMask, ...] = FLUX_LEMICA) -> Recipe:
    """LeMiCa: a mask of the least global error, and the last residual. `pace` is one mask, or a speed-up to choose among `masks` by."""
    return Recipe(_pace(pace, masks), Hold(), STACK, RESIDUAL, name="LeMiCa", source=masks[0].source)


def golden(pace: float | PublishedMask = 2.0, masks: tuple[PublishedMask, ...] = FLUX_GOLDEN, order: int = 0) -> Recipe:
    """Golden Path: a searched mask and the model's last output (`order` 0), or the line through its last two (1)."""
    return Recipe(_pace(pace, masks), Lagrange(order), Site.COND, name="Golden Path", source=masks[0].source)


def _pace(pace: float | PublishedMask, masks: tuple[PublishedMask, ...]) -> Policy[Any]:
    return Carried(pace) if isinstance(pace, PublishedMask) else Paced(pace, masks)


def fora_branches(every: int = 3, warmup: int = 0) -> Recipe:
    """FORA, as published: the attention and MLP outputs of every block, computed once in `every` evaluations."""
    return Recipe(Warmup(Interval(every), warmup), Hold(), BRANCH, name="FORA", source="arXiv:2407.01425")


def taylorseer_branches(every: int = 6, order: int = 2, warmup: int = 3) -> Recipe:
    """TaylorSeer, as published: the Taylor series of every branch's output, over steps."""
    return Recipe(Warmup(Interval(every), warmup), Taylor(order, Axis.STEP), BRANCH, name="TaylorSeer", source="arXiv:2503.06923")


def hicache_branches(every: int = 6, order: int = 2, warmup: int = 3) -> Recipe:
    """HiCache, as published: TaylorSeer with scaled Hermite polynomials in place of powers."""
    return Recipe(Warmup(Interval(every), warmup), Hermite(order), BRANCH, name="HiCache", source="arXiv:2508.16984")


def pab(attention: int = 2, cross: int = 6, mlp: int = 1, start: float = 0.15, end: float = 0.85) -> Recipe:
    """Pyramid Attention Broadcast: each kind of branch once in so many evaluations, the more stable ones more seldom.

    The paper's ranges are 2, 4 and 6 for spatial, temporal and cross-attention, within the middle 70 % of the steps. Wan's and
    Flux's attention is over space and time at once and takes the smallest. 1 leaves a kind alone, as the paper mostly
    does with the MLP. A range is counted from the last computed evaluation, in the authors' code from the first step.
    """
    ranges = {Branch.ATTENTION: attention, Branch.CROSS: cross, Branch.MLP: mlp}
    each = PerBranch(Interval(attention), Interval(cross), Interval(mlp))
    switched = frozenset(branch for branch, every in ranges.items() if every > 1)
    return Recipe(Within(each, start, end), Hold(), BRANCH, name="PAB", source="arXiv:2408.12588", branches=switched)


def delta_dit(total: int, every: int = 2, share: float = 0.75, switch: float = 0.6) -> Recipe:
    """Delta-DiT: what a span of blocks adds is held; the rear `share` of the `total` blocks up to `switch` of the steps, then the front.

    Blocks that are in both are a span of their own: the parts of a sum add up to it. 0.75 of the blocks every second evaluation
    leave out 3/8 of the work, the 1.6 times that the paper reports on 20 steps. The paper has the switch, its b, and the number
    of blocks as settings for each model; the defaults here are ours.
    """
    count = min(max(round(share * total), 1), total)
    early, late = Within(Interval(every), 0.0, switch), Within(Interval(every), switch, 1.0)
    ends = min(count, total - count)
    spans = [(Span(0, ends), late), (Span(ends, total - ends), Interval(every) if count > ends else Never()), (Span(total - ends), early)]
    kept = [(span, policy) for span, policy in spans if span.of(total) and not isinstance(policy, Never)]
    where, when = tuple(span for span, _ in kept), PerPlace(tuple(policy for _, policy in kept))
    return Recipe(when, Hold(), STACK, RESIDUAL, name="Delta-DiT", source="arXiv:2406.01125", spans=where)


def cfg_cache(every: int = 5, high: float = 0.641) -> Recipe:
    """FasterCache's CFG-Cache: below noise level `high` the negative prompt is computed once in `every` evaluations."""
    policy = Within(Interval(every), high=high)
    return Recipe(policy, GuidanceBands(), Site.UNCOND, RESIDUAL, name="CFG-Cache", source="arXiv:2410.19355")


def block_cache(schedule: BlockSchedule, learned: Alignment | Pupil | None = None, placement: Placement | None = None) -> Recipe:
    """Block Caching: each block's residual is held by the schedule of that block, and aligned to its step where that was learned.

    Given something that learns an alignment in place of one, the blocks answer as it would align them by now.
    """
    name, source, kept = f"Block Caching {schedule.reduction:.2f}x", "arXiv:2312.03209", placement or Placement()
    if not schedule.cached:
        return Recipe(Never("the schedule computes everything"), Hold(), BLOCK, RESIDUAL, kept, name, source)
    spans = tuple(Span(block, block + 1) for block in schedule.cached)
    predictor = Hold() if learned is None else Aligned(learned) if isinstance(learned, Alignment) else Learning(learned)
    return Recipe(Scheduled(schedule), predictor, BLOCK, RESIDUAL, kept, name, source, spans=spans)


def block_profile(into: Observer, site: Site = BLOCK, placement: Placement | None = None, shown: Probe = Probe.NOTHING) -> Recipe:
    """Computes everything, and shows an observer each block's residual, or each branch's or condition's output, and the one before it."""
    target = RESIDUAL if site is BLOCK else Target.OUTPUT
    kept = placement or Placement()
    return Recipe(Shown("profiling", shown), Profiled(into), site, target, kept, "Encore Block Profile", "arXiv:2312.03209")
