"""Real trajectories: the demo models, sampled by the host without a cache, with all that a method looks at or forecasts."""

import copy
from contextlib import contextmanager
from dataclasses import dataclass, field

import comfy.model_management
import comfy.sample
import comfy.sd
import torch
from comfy.patcher_extension import WrappersMP
from pack.cache_core import Probe, Schedule, Site
from pack.demo.models import WEIGHTS
from pack.nodes.demo import conditioning
from torch import Tensor

CAPTION = "a large striped red circle at the top left{} and a small plain blue star at the bottom, on a grey background"
PROMPT = {"flux": CAPTION.format(""), "wan": CAPTION.format(" moving right")}
SHAPE = {"flux": (1, 16, 16, 16), "wan": (1, 16, 5, 16, 16)}
CFG = {"flux": 1.0, "wan": 3.0}


@dataclass
class Seen:
    """One evaluation: the solver's state and velocity, and for each condition what its rows of the network were."""

    latent: Tensor  # [B, C, ...]
    guided: Tensor  # velocity after guidance
    cond: list[Tensor] = field(default_factory=list)  # velocity of each condition
    tokens: list[list[Tensor]] = field(default_factory=list)  # [condition][n]: before block n, and after the last one
    modulated: list[Tensor] = field(default_factory=list)  # what TeaCache looks at
    embedded: list[Tensor | None] = field(default_factory=list)  # what it looks at on Wan without ret_steps
    text: int = 0  # how many of the tokens, the first ones, are text


@dataclass
class Trajectory:
    family: str
    schedule: Schedule
    seen: list[Seen]

    @property
    def sigmas(self):
        return self.schedule.sigmas[:-1]

    @property
    def branches(self):
        return len(self.seen[0].cond)

    def at(self, recipe):
        """For each evaluation and stream of `recipe` there: the site's input, what the policy sees, the output, the input's picture."""
        return [[self._stream(recipe, seen, k) for k in range(1 if recipe.site is Site.GUIDED else self.branches)] for seen in self.seen]

    def _stream(self, recipe, seen, k):
        if recipe.site is not Site.STACK:
            return seen.latent, seen.latent, seen.guided if recipe.site is Site.GUIDED else seen.cond[k], seen.latent
        tokens = seen.tokens[k]
        x, y = tokens[recipe.head], tokens[len(tokens) - 1 - recipe.tail]
        shown = {Probe.MODULATED: seen.modulated[k], Probe.FIRST_BLOCK: (x - tokens[0])[:, seen.text :], Probe.NOTHING: None}
        shown |= {Probe.EMBEDDING: seen.embedded[k], Probe.LATENT: seen.latent}
        return x, shown[recipe.policy.probe], y, x[:, seen.text :]


def load(family):
    """A demo model as its workflows load it."""
    model = comfy.sd.load_diffusion_model(str(WEIGHTS / f"demo-{family}.safetensors"))
    if family == "wan":
        sampling = copy.deepcopy(model.get_model_object("model_sampling"))
        sampling.set_parameters(shift=3.0)
        model.add_object_patch("model_sampling", sampling)
    return model


def sample(model, family, steps, seed=1):
    """The final latent of one prompt, by the host's own Euler sampler."""
    latent = torch.zeros(SHAPE[family])
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    told, empty = conditioning(family, PROMPT[family]), conditioning(family, "")
    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, steps, CFG[family], "euler", "simple", told, empty, latent, disable_pbar=True, seed=seed
        )  # fmt: skip


class Watch:
    """Looks on by PyTorch's own hooks: nothing of what is tested has a part in it."""

    def __init__(self, family):
        self.family, self.sigmas, self.seen = family, (), []
        self._calls, self._tokens, self._modulated, self._embedded, self.text = {}, [], None, None, 0

    def _flux(self, network):
        def join(parts):
            self._tokens.append(torch.cat(parts, 1))

        first, blocks = network.double_blocks[0], [*network.double_blocks, *network.single_blocks]

        def enter(module, args, given):
            self.text = given["txt"].shape[1]
            join((given["txt"], given["img"]))

        yield first.register_forward_pre_hook(enter, with_kwargs=True)
        yield first.img_attn.qkv.register_forward_pre_hook(lambda m, a: setattr(self, "_modulated", a[0].clone()))
        for block in blocks:
            yield block.register_forward_hook(lambda m, a, out: join(out[::-1] if isinstance(out, tuple) else (out,)))

    def _wan(self, network):
        yield network.blocks[0].register_forward_pre_hook(lambda m, a: self._tokens.append(a[0].clone()))
        yield network.time_projection.register_forward_hook(lambda m, a, out: setattr(self, "_modulated", out.clone()))
        yield network.time_embedding.register_forward_hook(lambda m, a, out: setattr(self, "_embedded", out.clone()))
        for block in network.blocks:
            yield block.register_forward_hook(lambda m, a, out: self._tokens.append(out.clone()))

    def _call(self, network, args, kwargs, out):
        """One call of the network is over: give each condition its rows."""
        passed = kwargs.get("transformer_options") or next(a for a in reversed(args) if isinstance(a, dict) and "uuids" in a)
        which, modulated = passed["cond_or_uncond"], self._modulated
        lines = zip(*(tokens.chunk(len(which)) for tokens in self._tokens), strict=True)
        embedded = [None] * len(which) if self._embedded is None else self._embedded.chunk(len(which))
        for cond, rows, shown, e, v in zip(which, lines, modulated.chunk(len(which)), embedded, out.chunk(len(which)), strict=True):
            self._calls[cond] = (list(rows), shown, v.clone(), e)
        self._tokens = []

    def close(self, latent, guided):
        """One evaluation is over."""
        calls = [self._calls[cond] for cond in sorted(self._calls)]
        rows, modulated, outputs, embedded = (list(column) for column in zip(*calls, strict=True))
        self.seen.append(Seen(latent, guided, outputs, rows, modulated, embedded, self.text))
        self._calls = {}

    @contextmanager
    def over(self, network):
        hooks = list(self._flux(network) if self.family == "flux" else self._wan(network))
        hooks.append(network.register_forward_hook(self._call, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def record(model, family, steps):
    """A trajectory of `model` without a cache."""
    model, watch = model.clone(), Watch(family)

    def evaluation(executor, x, timestep, *args, **kwargs):
        before = x.clone()
        denoised = executor(x, timestep, *args, **kwargs)
        watch.close(before, (before - denoised) / timestep.view(-1, *[1] * (x.ndim - 1)))
        return denoised

    def loop(executor, guider, sigmas, *args, **kwargs):
        watch.sigmas = tuple(sigmas.tolist())
        return executor(guider, sigmas, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "watch", evaluation)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "watch", loop)
    with watch.over(model.model.diffusion_model):
        sample(model, family, steps)
    return Trajectory(family, Schedule(watch.sigmas), watch.seen)
