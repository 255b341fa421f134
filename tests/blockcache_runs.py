"""Samplings for Block Caching on the tiny models: measured, made up, and held by hand."""

import torch
from host_models import LATENT, prompt, sample
from pack.cache_core import Place
from pack.cache_core.blockcache import Profile, for_reduction
from pack.nodes.adapters.blockcache import Measurement, profiled
from pack.nodes.adapters.calibrate import Sampling
from test_sites import keys, spread, tokens

STEPS = 8


class Bar:
    """A progress bar that nobody looks at."""

    def update(self, steps):
        pass


def sampling(model, family, batch=1, cfg=1.0):
    latent = {"samples": torch.zeros(batch, *LATENT[family])}
    return Sampling(model, prompt(5, 11), prompt(5, 12), latent, STEPS, cfg, "euler", "simple")


def measured(model, family, trajectories=1, branches=False, **kwargs):
    with torch.inference_mode():
        return profiled(sampling(model, family, **kwargs), Measurement("tiny", model, branches), trajectories, 1, Bar())


def flat(blocks=3, steps=10, changes=None, macs=None):
    """A profile with the changes [blocks, steps] that are given."""
    given = torch.as_tensor(changes if changes is not None else torch.ones(blocks, steps))
    sigmas = tuple(1 - n / given.shape[1] for n in range(given.shape[1] + 1))
    places = tuple(Place(n) for n in range(len(given)))
    return Profile("flat", places, given[None].float(), sigmas, macs or (100,) * len(given), 100 * len(given) + 50, {})


def held_by_hand(model, family, rows, aligned=None):
    """The latent of a sampling that holds each block's residual by the steps in `rows`, with the host's own block patches."""
    by_hand, step = model.clone(), {"n": -1}

    def held(index, key):
        kept = {}

        def patch(args, extra):
            step["n"] += index == 0
            before = tokens(args, key, family).clone()
            if step["n"] not in rows[index]:
                residual = kept["residual"] if aligned is None else aligned(index, step["n"], kept["residual"])
                return spread(args, before + residual, key, family)
            out = extra["original_block"](args)
            kept["residual"] = tokens(out, key, family) - before
            return out

        return patch

    for index, key in enumerate(keys(family)):
        by_hand.set_model_patch_replace(held(index, key), "dit", *key)
    return sample(by_hand, family, steps=STEPS)


def schedules_of(models):
    """A schedule of each model, with a block that is computed throughout."""
    return {family: for_reduction(measured(models[family], family), 1.4, front=1) for family in models}
