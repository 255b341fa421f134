"""Methods for parts of the network done by hand: plain forwards over the host's own modules, plain patches over its blocks."""

from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .trajectory import sample


@dataclass(frozen=True)
class Anchor:
    """What a forecast may look at: one computed evaluation, or the present one without its feature."""

    step: int
    sigma: float
    total: int
    probe: Tensor | None = None
    feature: Tensor | None = None


# The modules whose outputs are added to the tokens, by what a method calls them.
MODULES = {
    "flux": {
        "attention": (".img_attn.proj", ".txt_attn.proj"),
        "mlp": (".img_mlp", ".txt_mlp"),
        "both": (".linear2",),
    },
    "wan": {"attention": (".self_attn",), "cross": (".cross_attn",), "mlp": (".ffn",)},
}


class ByHand:
    """A clone of `model` with plain Python in place of a cache: it knows the step and the call, and keeps anchors by name."""

    def __init__(self, model, family, steps):
        self.model, self.family, self.steps, self.step, self.call = model.clone(), family, steps, -1, None
        self.sigma, self.kept, self.computed, self.waiting = 0.0, {}, {}, {}
        self.network = model.model.diffusion_model
        self.model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "by hand", self._evaluation)
        self.model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "by hand", self._call)

    def _evaluation(self, executor, x, timestep, *args, **kwargs):
        self.step, self.sigma = self.step + 1, timestep[0].item()
        return executor(x, timestep, *args, **kwargs)

    def _call(self, executor, *args, **kwargs):
        passed = kwargs.get("transformer_options") or next(a for a in reversed(args) if isinstance(a, dict) and "uuids" in a)
        self.call = tuple(passed["cond_or_uncond"])
        return executor(*args, **kwargs)

    def answer(self, name, reuse, forecast, compute):
        """The forecast from what was kept under `name` in calls like this one, or what `compute` gives, which is kept."""
        anchors, now = self.kept.setdefault((name, self.call), []), Anchor(self.step, self.sigma, self.steps)
        self.computed.setdefault(self.step, []).append(not reuse)
        if reuse:
            return forecast(anchors, now)
        value = compute()
        anchors.append(replace(now, feature=value.clone()))
        return value

    @contextmanager
    def branches(self, reused, forecast):
        """The outputs of each kind of branch forecast at the steps where `reused[kind][step]` is true."""
        found = self.network.named_modules()
        wanted = {end: kind for kind, ends in MODULES[self.family].items() if kind in reused for end in ends}
        modules = {name: (module, kind) for name, module in found for end, kind in wanted.items() if name.endswith(end)}
        for name, (module, kind) in modules.items():
            inner, each = module.forward, reused[kind]

            def forward(*args, name=name, inner=inner, each=each, **kwargs):
                return self.answer(name, each[self.step], forecast, lambda: inner(*args, **kwargs))

            vars(module)["forward"] = forward
        try:
            yield self
        finally:
            for module, _ in modules.values():
                del vars(module)["forward"]

    def attention_cores(self, reused, forecast):
        """The attention itself of Flux's single blocks, which make it together with their MLP."""

        def override(attend, *args, **kwargs):
            where = kwargs["transformer_options"]
            if where["block_type"] != "single":
                return attend(*args, **kwargs)
            return self.answer(f"core {where['block_index']}", reused[self.step], forecast, lambda: attend(*args, **kwargs))

        self.model.model_options["transformer_options"]["optimized_attention_override"] = override

    @property
    def keys(self):
        """The host's names of the blocks in calling order."""
        if self.family == "wan":
            return [("double_block", n) for n in range(len(self.network.blocks))]
        doubles = [("double_block", n) for n in range(len(self.network.double_blocks))]
        return doubles + [("single_block", n) for n in range(len(self.network.single_blocks))]

    def spans(self, spans, reuses, forecast, shown=None):
        """What each span of blocks adds to the tokens, forecast where `reuses(n, step)` is true of span n.

        `shown(before, after, text)` is told the first block's tokens and how many of them are text, if it is in none of them.
        """
        for index, key in enumerate(self.keys):
            n = next((n for n, span in enumerate(spans) if index in span), None)
            patch = self._inside(n, spans[n], index, key, reuses, forecast) if n is not None else self._outside(key, shown)
            self.model.set_model_patch_replace(patch, "dit", *key)

    def _outside(self, key, shown):
        def run(args, extra):
            before = self.tokens(args, key).clone()
            out = extra["original_block"](args)
            if shown is not None and key == self.keys[0]:
                shown(before, self.tokens(out, key).clone(), args["txt"].shape[1] if self.family == "flux" else 0)
            return out

        return run

    def _inside(self, n, span, index, key, reuses, forecast):
        def run(args, extra):
            if index == span[0]:
                self.waiting[n] = (self.tokens(args, key).clone(), reuses(n, self.step))
            before, reuse = self.waiting[n]
            if reuse:
                last = index == span[-1]
                return self.place(args, key, before + self.answer(f"span {n}", True, forecast, None)) if last else args
            out = extra["original_block"](args)
            if index == span[-1]:
                self.answer(f"span {n}", False, forecast, lambda: self.tokens(out, key) - before)
            return out

        return run

    def tokens(self, found, key):
        both = self.family == "flux" and key[0] == "double_block"
        return torch.cat([found["txt"], found["img"]], 1) if both else found["img"]

    def place(self, found, key, tokens):
        if self.family == "flux" and key[0] == "double_block":
            text = found["txt"].shape[1]
            return {**found, "txt": tokens[:, :text], "img": tokens[:, text:]}
        return {**found, "img": tokens}

    def sample(self):
        """The final latent."""
        return sample(self.model, self.family, self.steps)
