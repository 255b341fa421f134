"""Encore Block Cache: samples by a schedule, aligned or not."""

from typing import Any

from comfy_api.latest import io

from ...cache_core.blockcache import Alignment, BlockSchedule
from ...cache_core.blockcache.align import load as load_alignment
from ...cache_core.blockcache.schedule import load as load_schedule
from ...cache_core.published import block_cache
from ..adapters.blockcache import check
from ..adapters.calibrate import fingerprint
from ..adapters.families import family_of
from ..adapters.host import attach
from ..live import listener
from ..methods.base import cache_device, placement
from .files import find, names
from .profile import CATEGORY
from .schedule import SCHEDULE, chosen, saved_input

ALIGNMENT = io.Custom("ENCORE_BLOCK_ALIGNMENT")
NONE = "none"


class EncoreBlockCache(io.ComfyNode):
    """Holds each block's residual by the schedule of that block."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreBlockCache",
            display_name="Encore Block Cache",
            category=CATEGORY,
            description="Block Caching (arXiv:2312.03209), third step: computes each transformer block at the steps of its schedule and "
            "adds its last residual at the others, with an alignment of scale and shift if there is one.",
            search_aliases=["block caching", "cache me if you can", "cache", "speed up"],
            inputs=[
                io.Model.Input("model", tooltip="The model to speed up. LoRAs and other patches may come before or after."),
                SCHEDULE.Input("schedule", optional=True, tooltip="From Encore Block Schedule. Not needed where a file is chosen."),
                saved_input("schedules", "Encore Block Schedule"),
                ALIGNMENT.Input("alignment", optional=True, tooltip="From Encore Align (fit) or (train). It goes before the file."),
                io.Combo.Input(
                    "alignment_file",
                    options=[NONE, *names("alignments")],
                    default=NONE,
                    tooltip="none: residuals are added as they are. A name: that file of models/encore/blockcache/alignments, or of the "
                    "demo models; make it with the same schedule.",
                ),
                cache_device("1 result for each block that is cached; a condition takes tokens x width x bytes of a value for each."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the cache on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: Any, file: str, alignment_file: str, cache_device: str = "auto", schedule: Any = None, alignment: Any = None
    ) -> io.NodeOutput:
        known: BlockSchedule = chosen(file, schedule, "schedules", load_schedule)
        check(model, known)
        if alignment is None and alignment_file != NONE:
            alignment = load_alignment(find("alignments", alignment_file))
        recipe = block_cache(known, alignment)
        kept = placement(cache_device, recipe, family_of(model))
        notes = mismatch(model, known, alignment)
        return io.NodeOutput(attach(model, block_cache(known, alignment, kept), listener(cls.hidden.unique_id, notes)))


def mismatch(model: Any, schedule: BlockSchedule, alignment: Alignment | None) -> list[str]:
    """Notes for the report where schedule or alignment were made on another model, or with each other's likes."""
    ours, notes = fingerprint(model), []
    for kind, told in (("schedule", schedule.about), ("alignment", alignment.about if alignment else {})):
        other = [key for key in ours if key in told and told[key] != ours[key]]
        if other:
            notes.append(f"The {kind} was made on another model: it differs in {', '.join(other)}. Make one of this model.")
    if alignment is not None and alignment.schedule != schedule.digest:
        notes.append("The alignment was made for another schedule; cells that it does not have take those nearest in noise level.")
    return notes
