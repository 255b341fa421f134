"""`./encore bench blockcache`: Block Caching by its shipped files, without an alignment and with each that ships, next to fewer steps."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..cache_core import CacheError
from ..cache_core import published as p
from ..cache_core.blockcache import Alignment, Profile, for_reduction, schedule
from ..cache_core.blockcache.align import load as load_alignment
from ..cache_core.blockcache.profile import load as load_profile
from ..cache_core.blockcache.schedule import load as load_schedule
from ..demo.agreement import Setting
from .contest import Course, Entrant
from .making import FEW, Order
from .methods import cost, fewer_steps, reference
from .output import Columns
from .progress import Bar
from .rows import Row, make_table

REDUCTIONS = (1.5, 2.0)  # of schedules besides the shipped one
PREFIX = "block_cache_"  # of the names of rows with an alignment
KINDS = ("fit", "train")  # of alignments; those of a model whose file does not ship have no row


def run(course: Course, setting: Setting, rounds: int, bar: Bar, only: Sequence[str] = ()) -> list[Row]:
    """Uncached, three schedules without an alignment, the shipped one with each, and fewer steps at the cost of the shipped one.

    With `only`, uncached, the shipped schedule without an alignment, and with those of them. Raises CacheError for one that does not ship.
    """
    order = Order(course.family)
    profile, files = load_profile(order.path("profiles")), {kind: order.path("alignments", f"-{kind}") for kind in KINDS}
    aligned = {kind: load_alignment(file) for kind, file in files.items() if file.exists()}
    if unknown := sorted({name.removeprefix(PREFIX) for name in only} - set(aligned)):
        raise CacheError(
            f"No alignment of {order.name} is called {', '.join(unknown)}. There are {', '.join(PREFIX + kind for kind in aligned)}."
        )
    if only:
        aligned = {kind: known for kind, known in aligned.items() if PREFIX + kind in only}
    entrants = entries(order, profile, aligned, setting)[: 1 + len(aligned) if only else None]
    bar.expect(course, [setting] * (1 + len(entrants)))
    uncached, frames = reference(course, setting, bar)
    results = [course.judge(entrant, frames, bar) for entrant in entrants]
    plain = {} if only else fewer_steps(course, setting, [cost(results[0], uncached)], frames, bar)
    rivals = next(iter(plain.values()), {})
    everyone = [uncached, *results, *rivals.values()]
    bar.expect(course, [result.entrant.setting for result in everyone], rounds)
    course.race(everyone, rounds, bar)
    table, named = make_table(course, uncached), {name.removeprefix("fewer_steps_"): rival for name, rival in rivals.items()}
    rows = [table.row(uncached, {}), table.row(results[0], named) | {"unlike_8_64": unlike(order, profile)}]
    rows += [
        table.row(result, {"none": results[0]} | named) | told(aligned[kind]) for kind, result in zip(aligned, results[1:], strict=False)
    ]
    return rows + [table.row(result, {}) for result in (*results[1 + len(aligned) :], *rivals.values())]


def entries(order: Order, profile: Profile, aligned: Mapping[str, Alignment], setting: Setting) -> list[Entrant]:
    """The shipped schedule plain and with each alignment, that of the first FEW trajectories, then those of other savings."""
    known = load_schedule(order.path("schedules"))
    words = f"{known.reduction:.2f}x fewer MACs"
    made = [Entrant("block_cache", setting, words, p.block_cache(known))]
    made += [Entrant(PREFIX + kind, setting, words, p.block_cache(known, aligned[kind])) for kind in aligned]
    if profile.trajectories > FEW:
        made.append(Entrant(f"block_cache_of_{FEW}", setting, words, p.block_cache(schedule(profile.first(FEW), known.delta))))
    others = [for_reduction(profile, wanted) for wanted in REDUCTIONS]
    return made + [Entrant("block_cache", setting, f"{each.reduction:.2f}x fewer MACs", p.block_cache(each)) for each in others]


def unlike(order: Order, profile: Profile) -> float | None:
    """Share of cells in which the schedules of the first FEW trajectories and of all differ, for one threshold; None if these are all."""
    known = load_schedule(order.path("schedules"))
    return known.unlike(schedule(profile.first(FEW), known.delta)) if profile.trajectories > FEW else None


def told(alignment: Alignment) -> dict[str, Any]:
    """What an alignment says of how it was made."""
    return {f"alignment_{key}": alignment.about[key] for key in ("seconds", "rollouts")}


COLUMNS: Columns = (
    ("model", lambda row: row["model"]),
    ("method", lambda row: row["method"]),
    ("setting", lambda row: row["setting"][:24]),
    ("MACs", lambda row: f"{row['macs_reduction']:.2f}x fewer"),
    ("speed-up", lambda row: f"{row['speedup']:.2f}x"),
    ("PSNR dB", lambda row: f"{row['psnr_db']:.2f}"),
    ("over none", lambda row: f"{row['psnr_db_over_none']:+.2f}"),
    ("95 %", lambda row: "{:+.2f} to {:+.2f}".format(*row["psnr_db_over_none_ci"])),
    ("SSIM", lambda row: f"{row['ssim']:.4f}"),
    ("Frechet change", lambda row: f"{100 * row['frechet_fresh_change']:+.2f} %"),
    ("agreement change", lambda row: f"{100 * row['agreement_change']:+.2f} %"),
    ("aligned in", lambda row: f"{row['alignment_seconds']:.0f} s"),
    ("8 to 64", lambda row: f"{100 * row['unlike_8_64']:.1f} % of cells"),
)
