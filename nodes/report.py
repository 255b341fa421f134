"""The node that shows what a sampling did and what it cost."""

import json
from typing import Any

from comfy_api.latest import io

from ..cache_core import CacheError, Ledger
from ..cache_core.published import measure
from .adapters import reports
from .timeline import draw


class EncoreReport(io.ComfyNode):
    """Finds the sampling that made a latent and shows its steps, times, MACs and reasons."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreReport",
            display_name="Encore Report",
            category="encore",
            description="Shows what happened in the sampling that made this latent: which steps were computed, why, how "
            "long each took, and how far off its forecast would have been. With a baseline, both side by side.",
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip="Straight from a sampler whose model went through an Encore node."),
                io.Latent.Input(
                    "baseline",
                    optional=True,
                    tooltip="Straight from the sampler to compare with, for instance one whose model went through Encore Measure.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table", tooltip="A line for each step, as text."),
                io.Image.Output(display_name="timeline", tooltip="The steps as a picture."),
                io.String.Output(display_name="json", tooltip="Everything, for programs: seconds, MACs, reasons, errors."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> float:
        return float("nan")  # timings are new even where the latent is not

    @classmethod
    def execute(cls, latent: dict[str, Any], baseline: dict[str, Any] | None = None) -> io.NodeOutput:
        run, other = _pair(latent, baseline)
        if other is not None and (run.steps, run.sampler) != (other.steps, other.sampler):
            run.note(f"The baseline took {other.steps} steps of {other.sampler}, this run {run.steps} of {run.sampler}.")
        content = {
            "run": run.to_dict(),
            "baseline": None if other is None else other.to_dict(),
            "comparison": None if other is None else compare(run, other),
        }
        return io.NodeOutput(table(run, other), draw(run, other), json.dumps(content, indent=1), ui={"encore_report": [content]})


def compare(run: Ledger, baseline: Ledger) -> dict[str, float | None]:
    """Ratios baseline : run of the loop's seconds and of the MACs made."""
    macs = baseline.macs / run.macs if run.macs and baseline.macs else None
    return {"speedup": baseline.seconds / run.seconds if run.seconds else None, "macs_reduction": macs}


def table(run: Ledger, baseline: Ledger | None = None) -> str:
    """A head line, the comparison if there is one, the notes, and a line for each evaluation."""
    lines = [f"{run}; {run.sampler}; {_macs(run.macs)}; masks and method: {run.source or 'own'}"]
    if baseline is not None:
        ratios = compare(run, baseline)
        parts = [f"{name} {ratio:.2f}x" for name, ratio in ratios.items() if ratio]
        lines.append(f"baseline: {baseline}; {_macs(baseline.macs)}; " + ", ".join(parts).replace("_", " "))
    lines += [f"note: {note}" for note in run.notes]
    lines.append(f"{'step':>4} {'sigma':>8}  {'what':<8} {'ms':>9}  {'error':>8}  why")
    for entry in run.entries:
        error = "" if entry.error is None else f"{entry.error:.2e}"
        what = "computed" if entry.computed else "reused"
        lines.append(f"{entry.step:>4} {entry.sigma:>8.4f}  {what:<8} {1000 * entry.seconds:>9.2f}  {error:>8}  {entry.reason}")
    return "\n".join(lines)


def _macs(macs: int | None) -> str:
    return "MACs not counted" if macs is None else f"{macs / 1e12:.3g} T MACs"


def _pair(latent: dict[str, Any], baseline: dict[str, Any] | None) -> tuple[Ledger, Ledger | None]:
    """The ledgers of both latents; where these are equal bit for bit, the run is the one that did not just measure."""
    runs = _ledgers(latent, "latent")
    run = next((found for found in runs if found.recipe != measure().name), runs[0])
    if baseline is None:
        return run, None
    others = _ledgers(baseline, "baseline")
    return run, next((found for found in others if found.recipe != run.recipe), others[0])


def _ledgers(latent: dict[str, Any], name: str) -> list[Ledger]:
    found = reports.find(latent["samples"])
    if not found:
        raise CacheError(
            f"No sampling that Encore watched returned the latent at '{name}'. Connect the sampler's own output "
            "(not an upscaled or edited latent, nor 'denoised_output'), and put Encore or Encore Measure before that sampler."
        )
    return found
