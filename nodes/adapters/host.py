"""Attaches a recipe to a ComfyUI model by means of its wrappers, and ends every run with the sampling it was made for."""

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...cache_core import CacheError, Case, Recipe, Run, Schedule, Site
from ...cache_core.macs import Meter, forms, is_compiled
from ...cache_core.measure import Stopwatch, scalar
from ...cache_core.policies import Never
from ...cache_core.published import measure
from . import inside, options, reports
from .choice import Choice, Chooser, Listener, Situation, choose
from .families import blocks_of
from .solvers import shown, solver_of

GUIDED, COND, UNCOND = Site.GUIDED, Site.COND, Site.UNCOND
NEEDED = {  # what is not wrapped costs nothing; from the inside of a network a run may retreat to the site cond
    WrappersMP.CALC_COND_BATCH: frozenset(Site) - {GUIDED},
    WrappersMP.DIFFUSION_MODEL: frozenset(site for site in Site if site.inside),
}
_meters: "WeakKeyDictionary[nn.Module, Meter]" = WeakKeyDictionary()  # each keeps its network by a weak reference


def attach(model: Any, recipe: Recipe | Chooser, listener: Listener | None = None) -> Any:
    """A clone of `model` (ModelPatcher) that samples with `recipe`, in place of any recipe attached before.

    A function in its place is asked for the recipe each time that a sampling begins.
    `listener` gets the ledger of every sampling when it ends, whether it ended well or not.
    """
    model = model.clone()
    wrappers: dict[str, Callable[..., Any]] = {
        WrappersMP.OUTER_SAMPLE: _sampling(recipe, listener),
        WrappersMP.SAMPLER_SAMPLE: _loop,
        WrappersMP.PREDICT_NOISE: _evaluation,
        WrappersMP.CALC_COND_BATCH: _conditions,
        WrappersMP.APPLY_MODEL: _network,
        WrappersMP.DIFFUSION_MODEL: _blocks,
    }
    for kind, wrapper in wrappers.items():
        model.remove_wrappers_with_key(kind, options.KEY)
        model.add_wrapper_with_key(kind, options.KEY, wrapper)
    return model


def _sampling(recipe: Recipe | Chooser, listener: Listener | None) -> Callable[..., Any]:
    """Wrapper of one whole sampling: makes the run, and lets go of it whatever happens."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        guider = executor.class_obj
        before = guider.model_options
        guider.model_options = comfy.model_patcher.create_model_options_clone(before)
        passed = guider.model_options.setdefault("transformer_options", {})
        choice, run = _start(recipe, passed, guider, noise=args[0], sampler=args[2], sigmas=args[3])
        passed[options.KEY] = run
        options.drop(passed, [kind for kind, sites in NEEDED.items() if run.recipe.site not in sites])
        try:
            inside.check(run, guider.model_patcher.model.diffusion_model, options.is_compiled(passed))
            latent = executor(*args, **kwargs)
            if choice.finish is not None:
                choice.finish(run.ledger)
        finally:
            guider.model_options = before
            run.ledger.settle()
            computed = bool(run.ledger.entries) and all(entry.share == 1.0 for entry in run.ledger.entries)
            if computed and not isinstance(run.recipe.policy, Never):
                run.ledger.note(f"Everything was computed: {run.ledger.entries[-1].reason}.")
            if listener is not None:
                listener(run.ledger)
        reports.publish(latent, run.ledger)
        return latent

    return wrapper


def _start(
    recipe: Recipe | Chooser, passed: options.Options, guider: Any, noise: Tensor, sampler: Any, sigmas: Tensor
) -> tuple[Choice, Run]:
    """A new run of `recipe`, or one that computes everything and says why if caching cannot be right here."""
    reason = None
    name = options.sampler_name(sampler)
    try:
        levels = tuple(sigmas.tolist())
        schedule = Schedule(levels, shown(solver_of(sampler, levels, guider.model_patcher.model), levels))
    except CacheError as error:
        schedule, reason = Schedule((1.0, 0.0)), str(error)
    rival = options.rival(passed)
    if rival is not None:
        reason = f"{rival} is on this model too, and two caches spoil each other: remove one of them"
    if reason is None:
        cfg = float(getattr(guider, "cfg", 1.0))
        situation = Situation(guider.model_patcher, schedule, name, cfg, tuple(noise.shape))
        choice = choose(recipe, situation)
    else:
        choice = Choice(replace(recipe if isinstance(recipe, Recipe) else measure(), policy=Never(reason)), (reason,))
    run = Run(choice.recipe, schedule)
    run.ledger.sampler = name
    for note in choice.notes:
        run.ledger.note(note)
    return choice, run


def _loop(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrapper of the denoising loop: times it, the loading of the model left out."""
    guider, sigmas = args[0], args[1]
    run = options.run_of(guider.model_options.get("transformer_options", {}))
    watch = Stopwatch(sigmas.is_cuda)
    try:
        return executor(*args, **kwargs)
    finally:
        if run is not None:
            run.ledger.seconds += watch.stop().seconds()


def _evaluation(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Wrapper of one evaluation of the solver, x [B, C, ...] at timestep [B]: the one place where it is decided."""
    passed = args[0] if args else kwargs["model_options"]
    run: Run | None = passed.get("transformer_options", {}).get(options.KEY)
    if run is None:
        result: Tensor = executor(x, timestep, *args, **kwargs)
        return result
    sigma = scalar(timestep)
    run.level = timestep, sigma
    run.begin(sigma, x)
    if run.recipe.site is GUIDED and sigma > 0.0:
        key: list[Any] = []
        for name, conds in executor.class_obj.conds.items():
            key += name, options.active(conds, sigma)
        denoised = _through(run, [Case(tuple(key), x, x)], sigma, lambda: [executor(x, timestep, *args, **kwargs)])[0]
    else:
        denoised = executor(x, timestep, *args, **kwargs)
    run.end()
    return denoised


def _conditions(executor: Any, model: Any, conds: Any, x: Tensor, timestep: Tensor, passed: Any) -> list[Tensor]:
    """Wrapper of the evaluation of all conditions, a list of them for each of the outputs [B, C, ...]."""
    inner = passed.get("transformer_options", {})
    run: Run | None = inner.get(options.KEY)
    site = None if run is None else run.recipe.site
    if run is None or (site is not COND and site is not UNCOND):
        outputs: list[Tensor] = executor(model, conds, x, timestep, passed)
        return outputs
    told, sigma = run.level
    if timestep is not told:  # it nearly always is the evaluation's own, and then the device is not asked again
        sigma = scalar(timestep)
    if sigma <= 0.0:
        outputs = executor(model, conds, x, timestep, passed)
        return outputs
    if site is UNCOND:
        return _uncond(run, inner, conds, x, sigma, lambda asked: executor(model, asked, x, timestep, passed))
    call = run.occurrence((x.shape, *options.asked(inner, conds, sigma)))
    cases: list[Case | None] = []
    for n, cond in enumerate(conds):  # not a comprehension, which is a call more: it comes at every evaluation
        cases.append(None if cond is None else Case((call, n), x, x))
    return _through(run, cases, sigma, partial(executor, model, conds, x, timestep, passed))


def _uncond(run: Run, inner: options.Options, conds: Any, x: Tensor, sigma: float, compute: Callable[[Any], list[Tensor]]) -> list[Tensor]:
    """Denoised outputs of the positive prompt, always computed, and of the negative one, from the former or computed with it."""
    if len(conds) != 2 or conds[1] is None:
        if len(conds) == 2:
            run.ledger.note("There is no negative prompt to leave out: CFG is 1.0.")
        return compute(conds)
    call = run.occurrence(options.asked(inner, conds, sigma))
    reuse = run.decide([Case(call, x, x)])
    positive, negative = compute([conds[0], None] if reuse else conds)
    case = Case(call, (x - positive) / sigma)
    if reuse:
        return [positive, x - sigma * run.reuse(case)]
    run.record(case, (x - negative) / sigma, ours=True)
    return [positive, negative]


def _through(run: Run, cases: list[Case | None], sigma: float, compute: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Denoised outputs [B, C, ...] of all `cases`, states x: forecast as velocities (x - x0) / sigma, or computed.

    None is a prompt that is left out: as in the host, its output is nothing.
    """
    asked = list(filter(None, cases))
    if asked and run.decide(asked):
        return [torch.zeros_like(asked[0].x) if case is None else case.x - sigma * run.reuse(case) for case in cases]
    handed = []
    for case, output in zip(cases, compute(), strict=True):
        if case is None:
            handed.append(output)
            continue
        velocity = (case.x - output).div_(sigma)
        corrected = run.record(case, velocity, ours=True)
        handed.append(output if corrected is velocity else case.x - sigma * corrected)
    return handed


def _network(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrapper of one call of the network: counts its multiply-accumulates."""
    passed = options.transformer_options(args, kwargs)
    run: Run | None = passed.get(options.KEY)
    if run is None:
        return executor(*args, **kwargs)
    key = (forms((*args, *kwargs.values()), passed), *kwargs, options.changes(passed), run.recipe.layout)
    made = run.costs.get(key)
    if made is None:
        return _counted(executor, run, key, passed, args, kwargs)
    run.macs += made
    return executor(*args, **kwargs)


def _counted(executor: Any, run: Run, key: Hashable, passed: options.Options, args: Sequence[Any], kwargs: options.Options) -> Any:
    """One call of the network of a form that this run does not know the cost of: at sites inside it, some of it may be skipped."""
    network, first, inner = executor.class_obj.diffusion_model, not run.ledger.entries, run.recipe.site.inside
    call = _way(executor, run, network) if inner else executor
    if first and (options.is_compiled(passed) or is_compiled(network)):
        run.ledger.counted = False
        run.ledger.note("The model is compiled, so its multiply-accumulates cannot be counted.")
    if not run.ledger.counted:
        return call(*args, **kwargs)
    meter = meter_of(network)
    watched = partial(options.watched_attention, passed, meter.attention)
    result, macs = meter.through(partial(call, *args, **kwargs), key, watched)
    run.macs += macs
    if not inner:
        run.costs[key] = macs
    if first:
        for place, made in meter.spans(key).items():
            run.ledger.places[place] = run.ledger.places.get(place, 0) + made
    return result


def _way(executor: Any, run: Run, network: Any) -> Callable[..., Any]:
    """How to call the model; a network that calls no wrappers itself gets the sites inside it from here."""
    blocks = blocks_of(network)
    if blocks is None or blocks.wraps:
        way: Callable[..., Any] = executor
        return way
    return partial(inside.through, executor, run, meter_of(network), network)


def _blocks(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Wrapper of one pass through the network itself: the place of the sites inside it."""
    run = options.run_of(options.transformer_options(args, kwargs))
    if run is None or not run.recipe.site.inside:
        return executor(*args, **kwargs)
    network = executor.class_obj
    return inside.through(executor, run, meter_of(network), network, *args, **kwargs)


def meter_of(network: nn.Module) -> Meter:
    """The one that counts `network`'s calls."""
    meter = _meters.get(network)
    if meter is None:
        meter = _meters[network] = Meter(cast(nn.Module, weakref.proxy(network)))
    return meter
