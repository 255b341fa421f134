"""`./encore bench skip`: Skip-Cache on the DiT with branches and on its twin without, and on Flux and Wan with a fitted branch."""

from dataclasses import replace

import comfy.ops
import torch

from ..cache_core import Recipe, Target
from ..cache_core.predictors import Hold, Lagrange
from ..cache_core.skip import files
from ..cache_core.skip.cache import Bridged, skip_cache
from ..cache_core.skip.fit import Sums, gathering
from ..cache_core.skip.landscape import Landscape, surveying
from ..demo.agreement import HELD_OUT, Setting
from ..nodes.adapters.skips import attach_branches
from ..nodes.skip.files import BRANCHES, find
from .contest import Course, Entrant, make_course
from .methods import cost, fewer_steps, reference
from .output import Columns
from .progress import Bar
from .rows import Row, make_table
from .teachers import scenes
from .twins import TWINS

EVERY = (2, 3, 4)
KEEP = 1
BRANCHED = {"flux-skip": "flux"}  # a demo model with trained branches put on it, and its family
SEED = 1 << 20  # of the noise that a branch is fitted on, beside the held-out ones


def make(name: str, prompts: int, batch: int) -> Course:
    """A demo model with its trained branches, and the held-out prompts."""
    course, made = make_course(BRANCHED[name], prompts, batch), files.load(find(BRANCHES, f"demo-{name}"), comfy.ops.manual_cast)[0]
    return replace(course, model=attach_branches(course.model, made), added="-skip")


def run(course: Course, setting: Setting, rounds: int, bar: Bar) -> list[Row]:
    """Uncached; at each n Skip-Cache as published, with a line, with a fitted branch, and a held residual; fewer steps at their costs."""
    fitted, smooth = learned(course, setting, bar)
    entrants = [entrant for every in EVERY for entrant in entries(every, fitted, setting)]
    bar.expect(course, [setting] * (1 + len(entrants)))
    uncached, frames = reference(course, setting, bar)
    results = [course.judge(entrant, frames, bar) for entrant in entrants]
    costs = sorted({cost(result, uncached) for result in results})
    plain = [pair["fewer_steps_euler"] for pair in fewer_steps(course, setting, costs, frames, bar).values()]
    everyone = [uncached, *results, *plain]
    bar.expect(course, [result.entrant.setting for result in everyone], rounds)
    course.race(everyone, rounds, bar)
    table = make_table(course, uncached)
    rows = [table.row(result, {}) for result in everyone]
    rows[0] |= {"feature_change": float(smooth.mean()), "feature_change_map": smooth.tolist()}
    return rows


def entries(every: int, fitted: Bridged, setting: Setting) -> list[Entrant]:
    """The ways to fill the middle blocks' place at one n."""
    held = Recipe(skip_cache(every, KEEP).policy, Hold(), skip_cache().site, Target.RESIDUAL, name="residual held", head=KEEP, tail=KEEP)
    made = {
        "skip_cache": skip_cache(every, KEEP),
        "skip_cache_line": skip_cache(every, KEEP, predictor=Lagrange(1)),
        "skip_cache_fitted": skip_cache(every, KEEP, predictor=fitted),
        "residual_held": held,
    }
    return [Entrant(name, setting, f"n {every}", recipe) for name, recipe in made.items()]


def learned(course: Course, setting: Setting, bar: Bar) -> tuple[Bridged, torch.Tensor]:
    """A branch fitted on prompts and noise that are not held out, and the landscape of the uncached model [blocks, steps - 1].

    Of class labels, which are all known, the noise alone is another.
    """
    bar.expect(course, [setting, setting])
    sums, into = Sums(), Landscape()
    known = course if course.family in TWINS else replace(course, scenes=scenes(course.family, len(course.scenes)))
    known.sampled(gathering(sums, max(EVERY), KEEP), setting, HELD_OUT + SEED, bar)
    course.sampled(surveying(into), setting, HELD_OUT + SEED, bar)
    return Bridged(sums.solve()), into.map()


COLUMNS: Columns = (
    ("model", lambda row: row["model"]),
    ("method", lambda row: row["method"]),
    ("setting", lambda row: row["setting"][:24]),
    ("computed", lambda row: f"{row['computed']:g} of {row['steps']}"),
    ("MACs", lambda row: f"{row['macs_reduction']:.2f}x fewer"),
    ("speed-up", lambda row: f"{row['speedup']:.2f}x"),
    ("PSNR dB", lambda row: f"{row['psnr_db']:.1f}"),
    ("SSIM", lambda row: f"{row['ssim']:.4f}"),
    ("Frechet", lambda row: f"{row['frechet_fresh']:.2f} ({100 * row['frechet_fresh_change']:+.1f} %)"),
    ("agreement", lambda row: f"{100 * row['agreement']:.1f} %"),
    ("features change", lambda row: f"{row['feature_change']:.4f} a step"),
)
