"""TRACE as nodes: one that samples by a calibration, one that makes a calibration of any model in the graph."""

import logging
from typing import Any

from comfy_api.latest import io

from ..cache_core import CacheError, Site
from ..cache_core.published import trace, trace_to
from ..cache_core.trace import Plan, save
from . import calibrations
from .adapters.calibrate import Sampling, bytes_needed, calibrate, mismatch, shelf_of
from .adapters.host import attach
from .cache import error_input, guard_input, site_input, speed_input
from .live import listener


class EncoreTrace(io.ComfyNode):
    """Samples by the weights and the mask of a calibration."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreTrace",
            display_name="TRACE",
            category="encore",
            description="Our own method: computes a part of the steps and forecasts the others with weights that lead the sampling back to "
            "where it would have been uncached. Works on any model, with the universal calibration or with one of the model itself.",
            search_aliases=["cache", "speed up", "faster", "trace", "calibration"],
            inputs=[
                io.Model.Input("model", tooltip="The model to speed up. LoRAs and other patches may come before or after."),
                speed_input(),
                io.Combo.Input(
                    "calibration",
                    options=calibrations.names(),
                    default=calibrations.UNIVERSAL,
                    tooltip="What the forecasts go by. universal: learned on other models, fits any. The others are files of Encore "
                    "Calibrate in models/encore.",
                ),
                site_input(),
                error_input(),
                guard_input(),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with the cache on it.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        speed: float,
        calibration: str = calibrations.UNIVERSAL,
        site: str = Site.GUIDED.value,
        error: float = 0.0,
        guard: bool = True,
    ) -> io.NodeOutput:
        known = calibrations.find(calibration)
        notes = [] if calibration == calibrations.UNIVERSAL else mismatch(model, known)
        known = known.unrehearsed() if notes else known
        made = trace_to(error, known, Site(site), guard) if error > 0.0 else trace(speed, known, Site(site), guard)
        return io.NodeOutput(attach(model, made, listener(cls.hidden.unique_id, notes)))


class EncoreCalibrate(io.ComfyNode):
    """Samples a few pictures uncached and keeps what TRACE needs of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreCalibrate",
            display_name="Encore Calibrate",
            category="encore",
            description="Samples a few times without a cache, with the settings that you use, and writes what TRACE learns from it to "
            "models/encore: some 70 kB, and up to a megabyte for each rehearsed speed, more where a latent has over 16 channels. The file "
            "serves every speed.",
            is_output_node=True,
            search_aliases=["calibrate", "trace"],
            inputs=[
                io.Model.Input("model", tooltip="The model as it goes into your sampler, without a cache."),
                io.Conditioning.Input("positive", tooltip="A prompt of the kind you use. Several in one condition are taken in turn."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Latent.Input("latent_image", tooltip="An empty latent of the size you use. A batch gives several trajectories at once."),
                io.Int.Input("trajectories", default=8, min=1, max=64, tooltip="Samplings, 1 to 64. More take longer."),
                io.Int.Input("seed", default=0, min=0, max=2**63, tooltip="Seed of the first sampling; the others count on from it."),
                io.Int.Input("steps", default=50, min=8, max=200, tooltip="Steps of each sampling, 8 to 200: as many as you use."),
                io.Float.Input("cfg", default=1.0, min=0.0, max=30.0, step=0.1, tooltip="CFG as in your sampler; 1.0 for Flux dev."),
                io.Combo.Input(
                    "sampler_name",
                    options=Sampling.samplers(),
                    default="euler",
                    tooltip="As in your sampler. Plans are rehearsed for euler and for others that evaluate once a step and add no noise, "
                    "such as dpmpp_2m, uni_pc, deis, ipndm and res_multistep.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=Sampling.schedulers(),
                    default="simple",
                    tooltip="As in your sampler: Encore takes a calibration for the steps, scheduler and shift that it was made with.",
                ),
                io.String.Input(
                    "speeds",
                    default="2, 3",
                    optional=True,
                    tooltip="Speeds to rehearse, up to 6, with commas between them: at these the forecasts are "
                    "fitted to what the model really answers, and channels may mix. Each costs six cached samplings of every trajectory, "
                    "two for each of three masks. On demo-flux that gained 2 dB at 2 and 4 dB at 4, from 48 small pictures "
                    "(docs/trace.md). Empty: none. Other speeds are served without.",
                ),
                io.String.Input("name", default="my-model", tooltip="Name of the file in models/encore. One of that name is replaced."),
                io.Sampler.Input("sampler", optional=True, tooltip="As for SamplerCustom: in place of sampler_name."),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="As for SamplerCustom: noise levels in place of steps and scheduler, 9 or more, from pure noise on.",
                ),
                io.Float.Input(
                    "minutes",
                    default=0.0,
                    min=0.0,
                    max=600.0,
                    step=0.5,
                    optional=True,
                    advanced=True,
                    tooltip="Minutes after the samplings, 0 to 600, at which the search for better masks ends with the best found so far. "
                    "Rehearsals still run. 0: as long as it takes.",
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="The name, for TRACE.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        latent_image: dict[str, Any],
        trajectories: int,
        seed: int,
        name: str,
        speeds: str = "2",
        minutes: float = 0.0,
        **settings: Any,
    ) -> io.NodeOutput:
        path = calibrations.place_for(name)
        sampling = Sampling.custom(model=model, latent=latent_image, **settings)
        wanted = speeds_of(speeds)
        needed = bytes_needed(sampling, trajectories) / 2**20
        logging.info("[Encore] %d trajectories take %.0f MiB in %s until the calibration is done", trajectories, needed, path.parent.name)
        shelf = shelf_of(sampling, seed, calibrations.workplace(name))
        found = calibrate(sampling, name, trajectories, seed, wanted, shelf, minutes)
        save(found, path)
        told = [f"{path.name}: {trajectories} trajectories of {sampling.steps} steps"]
        told += [f"computing {len(k.plan.computed)}: expected error {k.plan.error:.4f}{_held_out(k.plan)}" for k in found.plans]
        if wanted and not found.plans:
            told.append(f"no speed was rehearsed, since how the sampler {sampling.sampler_name} steps is not known")
        return io.NodeOutput(name, ui={"text": ["; ".join(told)]})


def _held_out(plan: Plan) -> str:
    return "" if plan.held_out is None else f" ({plan.held_out:.4f} of samplings that were held out)"


def speeds_of(text: str) -> list[float]:
    """The numbers of a list such as "2, 3". Raises CacheError for anything else."""
    try:
        speeds = [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise CacheError(f"Speeds are numbers with commas between them, such as 2, 3, and not {text!r}.") from error
    if any(not 1.0 < speed <= 6.0 for speed in speeds):
        raise CacheError(f"Speeds to rehearse lie above 1 and up to 6, and these are {speeds}. Leave the others out.")
    return speeds
