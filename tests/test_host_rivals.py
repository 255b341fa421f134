"""ComfyUI's own EasyCache and LazyCache beside ours: alike where they follow the paper, and each difference shown."""

import inspect
from dataclasses import replace

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheHolder, EasyCacheNode, LazyCacheNode
from host_models import LATENT, BlockCalls, make, prompt, sample
from oracles.loops import letters, mean
from pack.cache_core import Recipe, Site, Target
from pack.cache_core.policies import OutputRate, Within
from pack.cache_core.predictors import Hold
from pack.cache_core.published import easycache
from pack.nodes.adapters import host

pytestmark = pytest.mark.host
ALWAYS = 1e9
NODES = {"EasyCache": EasyCacheNode, "LazyCache": LazyCacheNode}


class SinceComputed(OutputRate):
    """As the host's node measures: moved since the last computed evaluation, not since the one before."""

    def propose(self, state, seen):
        return OutputRate.propose(self, replace(state, last=state.x), seen)


@pytest.fixture(scope="module")
def models():
    return {family: make(family) for family in LATENT}


@pytest.fixture
def flux(models):
    return models["flux"]


@pytest.fixture
def polite(monkeypatch):
    """The host's node without its fault of writing into its input."""
    original = EasyCacheHolder.apply_cache_diff
    monkeypatch.setattr(EasyCacheHolder, "apply_cache_diff", lambda self, x, *args, **kw: original(self, x.clone(), *args, **kw))


def theirs(model, threshold, start=0.0, end=1.0, name="EasyCache", subsample=1):
    cached = NODES[name].execute(model, threshold, start, end, False).result[0]
    cached.model_options["transformer_options"]["easycache"].subsample_factor = subsample  # 8, and no widget for it
    return cached


def ours(model, threshold, start=0.0, end=1.0):
    return host.attach(model, easycache(threshold, start, end))


def guided(model, threshold):
    """Ours at LazyCache's place: after guidance."""
    return host.attach(model, Recipe(OutputRate(threshold), Hold(), Site.GUIDED, Target.OUTPUT))


def trace(model, family, **more):
    """The final latent, and what was done at each step."""
    done = []
    with BlockCalls(model) as counted:
        latent = sample(model, family, callback=lambda *_: done.append(sum(counted.calls.values())), **more)
    return latent, letters(before == after for before, after in zip([0, *done], done, strict=False))


def evaluate(model, states, family="flux", **more):
    """Denoised latents at states (x, sigma), as a solver would ask for them one after the other, and what was done."""
    outputs, done = [], []

    def loop(predict, x, sigmas, extra_args=None, callback=None, disable=None):
        for state, sigma in states:
            outputs.append(predict(state.clone(), sigma * torch.ones(len(state)), **extra_args))
            done.append(sum(counted.calls.values()))
        return x

    with BlockCalls(model) as counted:
        sample(model, family, sampler=comfy.samplers.KSAMPLER(loop), **more)
    return outputs, letters(before == after for before, after in zip([0, *done], done, strict=False))


def states(count, family="flux", seed=3, step=None, shape=None):
    """States on a straight way, at falling noise levels."""
    generator = torch.Generator().manual_seed(seed)
    x, d = torch.randn(2, 1, *(shape or LATENT[family]), generator=generator)
    return [(x + n * (0.02 * d if step is None else step), 0.9 - 0.05 * n) for n in range(count)]


def change(model, way, **more):
    """Change of the velocity over the first step of `way`, relative to its size."""
    (a, b), _ = evaluate(model, way[:2], **more)
    first, second = ((x - x0) / sigma for x0, (x, sigma) in zip((a, b), way, strict=False))
    return mean(second - first) / mean(second)


class TestAlike:
    @pytest.mark.parametrize("family", ["flux", "wan"])
    def test_with_its_faults_mended_the_hosts_node_decides_and_samples_as_our_policy_does(self, models, family, polite):
        """One condition, every pixel looked at, the input left alone, and our sums made as the host makes them."""
        traces = set()
        for threshold in (0.15, 0.3, 0.6, 1.2, 2.4):
            policy = Within(SinceComputed(threshold), 0.0, 1.0)
            mine = host.attach(models[family], replace(easycache(), policy=policy))
            (expected, decided), (found, ledger) = (trace(model, family, steps=16) for model in (theirs(models[family], threshold), mine))
            assert ledger == decided
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
            traces.add(decided)
        assert len({trace for trace in traces if set(trace) == {"C", "r"}}) >= 2, traces


class TestWhereOursDiffers:
    def test_early_moves_of_a_reused_run_are_counted_once(self, flux, polite):
        """On even moves of one change c our sums are c, 2 c, 3 c and so on; the host's are c, 3 c, 6 c, 10 c."""
        way = states(10)
        threshold = 6.5 * change(flux, way)
        assert evaluate(theirs(flux, threshold), way)[1].startswith("CCrrrC")
        assert evaluate(ours(flux, threshold), way)[1].startswith("CCrrrrrrC")

    @pytest.mark.parametrize("name", NODES)
    def test_after_a_change_of_size_it_computes_until_it_knows_a_rate_again(self, flux, name):
        """The host's nodes take a rate of 0 for known, and never compute again (E1a)."""
        generator = torch.Generator().manual_seed(5)
        noise = [(torch.randn(1, 16, 8, 8 if n < 4 else 12, generator=generator), 0.9 - 0.05 * n) for n in range(14)]
        rival = evaluate(theirs(flux, 0.05, name=name), noise)[1]
        mine = evaluate((ours if name == "EasyCache" else guided)(flux, 0.05), noise)[1]
        assert rival == "CCCC" + "C" + "r" * 9
        assert mine == "C" * 14

    @pytest.mark.parametrize("family", ["flux", "wan"])
    def test_the_network_input_is_left_as_it_was_so_that_a_reused_velocity_is_the_last_one(self, models, family):
        """The host's node adds to its input in place; in float32 the host then denoises from what was added to (E1b)."""
        way = states(4, family)
        rival, mine = (evaluate(make(models[family], ALWAYS), way, family) for make in (theirs, ours))
        assert rival[1] == mine[1] == "CCrr"
        (x_a, sigma_a), (x, sigma) = way[1], way[2]
        v = x + (x_a - mine[0][1]) / sigma_a - x_a
        torch.testing.assert_close(mine[0][2], x - sigma * v, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rival[0][2], v - sigma * v, rtol=1e-4, atol=1e-4)
        assert (rival[0][2] - mine[0][2]).norm() > 0.1 * mine[0][2].norm()

    def test_context_windows_have_a_cache_each(self, models, polite):
        """The host's node keeps one for a condition, whatever the window: the last window's is served to all (E1c)."""
        settings = {"context_length": 2, "context_overlap": 0, "context_schedule": "standard_static", "context_stride": 1}
        settings |= {"closed_loop": False, "fuse_method": "flat", "dim": 2, "freenoise": False, "causal_window_fix": False}
        known = inspect.signature(ContextWindowsManualNode.execute).parameters
        windowed = ContextWindowsManualNode.execute(models["wan"], **{key: settings[key] for key in settings if key in known}).result[0]
        shape = (16, 4, 8, 8)
        way = states(4, "wan", shape=shape)
        rival, mine = (evaluate(make(windowed, ALWAYS), way, "wan", shape=shape) for make in (theirs, ours))
        assert mine[1] == "CCrr"
        assert rival[1][2:] == "rr"
        computed = evaluate(windowed, way, "wan", shape=shape)[0]
        (x_a, sigma_a), (x, sigma) = way[1], way[2]
        kept = (x_a - computed[1]) / sigma_a - x_a
        torch.testing.assert_close(mine[0][2], x - sigma * (x + kept), rtol=1e-4, atol=1e-4)
        assert rival[1] == "Crrr", "the second window was forecast from the first at once"
        wrong = (mine[0][2] - rival[0][2]).norm() / mine[0][2].norm()
        assert wrong > 0.1

    def test_a_condition_that_changes_much_is_not_reused_because_another_changes_little(self, flux, polite):
        """With the host's node the negative prompt alone decides."""
        way, told = states(4), [prompt(5, seed) for seed in range(20, 26)]
        changes = [change(flux, way, positive=positive) for positive in told]
        negative = change(flux, way, positive=prompt(5, 12))  # as `sample` has it
        more = {"cfg": 3.0, "positive": told[changes.index(max(changes))]}
        threshold = (max(changes) + negative) / 2
        assert negative < threshold
        assert evaluate(theirs(flux, threshold), way, **more)[1][2] == "r"
        assert evaluate(ours(flux, threshold), way, **more)[1][2] == "C"

    def test_every_pixel_is_looked_at(self, flux, polite):
        """The host's nodes look at one in 64, and what happens between them they do not see."""
        way = states(3)
        x, sigma = way[2]
        far = x + 2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
        far[..., ::8, ::8] = way[1][0][..., ::8, ::8]
        way = [*way[:2], (far, sigma)]
        assert evaluate(theirs(flux, 0.1, subsample=8), way)[1] == "CCr"
        assert evaluate(ours(flux, 0.1), way)[1] == "CCC"

    def test_after_guidance_the_velocity_is_kept_where_lazycache_keeps_the_step_to_the_end(self, flux):
        """LazyCache keeps x0 - x = -sigma v, made at a higher sigma: as a velocity it is sigma_a / sigma too large."""
        way = states(4)
        rival, mine = evaluate(theirs(flux, ALWAYS, name="LazyCache"), way), evaluate(guided(flux, ALWAYS), way)
        assert rival[1] == mine[1] == "CCrr"
        (x_a, sigma_a), (x, sigma) = way[1], way[3]
        v = (x_a - mine[0][1]) / sigma_a
        torch.testing.assert_close((x - mine[0][3]) / sigma, v, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close((x - rival[0][3]) / sigma, sigma_a / sigma * v, rtol=1e-4, atol=1e-4)

    def test_start_and_end_are_fractions_of_the_steps_that_are_made(self, flux, polite):
        """The host's are of the model's noise levels: image to image at half strength has passed half of them at its start."""
        rival, mine = (trace(make(flux, ALWAYS, 0.5), "flux", steps=8, denoise=0.5)[1] for make in (theirs, ours))
        assert rival.index("r") < mine.index("r") == 4

    def test_the_last_cache_of_a_run_is_never_the_first_of_the_next(self, flux):
        """Both are made for each sampling: what the host's nodes do right, and ours too."""
        for cached in (theirs(flux, 0.6), theirs(flux, 0.6, name="LazyCache"), ours(flux, 0.6), guided(flux, 0.6)):
            first, second = (trace(cached, "flux", steps=10) for _ in range(2))
            assert first[1] == second[1]
            assert torch.equal(first[0], second[0])
