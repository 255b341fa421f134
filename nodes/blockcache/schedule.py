"""Encore Block Schedule: which block is computed at which step."""

from typing import Any

from comfy_api.latest import io

from ...cache_core import CacheError
from ...cache_core.blockcache import for_reduction, schedule
from ...cache_core.blockcache.profile import load
from .files import find, names, place_for
from .plots import profile_plot, schedule_plot
from .profile import CATEGORY, PROFILE

SCHEDULE = io.Custom("ENCORE_BLOCK_SCHEDULE")
CONNECTED = "connected"


def saved_input(kind: str, made_by: str) -> Any:
    """Choice among the files of a kind, or what is connected."""
    return io.Combo.Input(
        "file",
        options=[CONNECTED, *names(kind)],
        default=CONNECTED,
        tooltip=f"connected: what {made_by} gives. A name: that file of models/encore/blockcache/{kind}, or of the pack's demo models.",
    )


def chosen(file: str, connected: Any, kind: str, read: Any) -> Any:
    """What is connected, or the file of that name. Raises CacheError if nothing is connected."""
    if file != CONNECTED:
        return read(find(kind, file))
    if connected is None:
        raise CacheError(f"No {kind[:-1]} is connected, and file says {CONNECTED!r}. Connect one, or choose a file.")
    return connected


class EncoreBlockSchedule(io.ComfyNode):
    """Eq 7 of Block Caching."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreBlockSchedule",
            display_name="Encore Block Schedule",
            category=CATEGORY,
            description="Block Caching (arXiv:2312.03209), second step: holds each block until its summed change passes a threshold. "
            "Different blocks are computed at different steps.",
            search_aliases=["block caching", "schedule", "cache me if you can"],
            inputs=[
                PROFILE.Input("profile", optional=True, tooltip="From Encore Block Profile. Not needed where a file is chosen."),
                saved_input("profiles", "Encore Block Profile"),
                io.Float.Input(
                    "macs_reduction",
                    default=1.8,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How many times fewer multiply-accumulates (MACs), 1.0 to 10.0: the threshold is found by bisection. The loop "
                    "gets faster by nearly as much. 0: go by delta instead.",
                ),
                io.Float.Input(
                    "delta",
                    default=0.1,
                    min=0.0,
                    max=100.0,
                    step=0.005,
                    tooltip="Threshold of the summed relative change, used where macs_reduction is 0. 0 computes everything; the paper has "
                    "0.5 for LDM at 20 steps.",
                ),
                io.Int.Input("front", default=0, min=0, max=200, tooltip="Blocks at the front that are always computed."),
                io.Int.Input("back", default=0, min=0, max=200, tooltip="Blocks at the back that are always computed."),
                io.String.Input("name", default="", tooltip="Name of a file in models/encore/blockcache/schedules; empty: not saved."),
            ],
            outputs=[
                SCHEDULE.Output(display_name="schedule", tooltip="For Encore Block Cache and the nodes that align."),
                io.Image.Output(display_name="plot", tooltip="A row for each block: where it is computed and where held."),
                io.Image.Output(display_name="profile_plot", tooltip="The profile that it was made of."),
                io.String.Output(display_name="summary", tooltip="Threshold, expected MACs, and how often each block is computed."),
            ],
        )

    @classmethod
    def execute(
        cls, file: str, macs_reduction: float, delta: float, front: int, back: int, name: str, profile: Any = None
    ) -> io.NodeOutput:
        known = chosen(file, profile, "profiles", load)
        found = for_reduction(known, macs_reduction, front, back) if macs_reduction > 0.0 else schedule(known, delta, front, back)
        if name.strip():
            found.save(place_for("schedules", name))
        counts = ", ".join(str(len(computed)) for computed in found.computed)
        summary = f"delta {found.delta:.4g}: {found.reduction:.3f}x fewer MACs; steps computed of {found.steps}, block by block: {counts}"
        return io.NodeOutput(found, schedule_plot(found), profile_plot(known), summary)
