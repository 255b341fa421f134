"""One before/after workflow, run and measured: interleaved repetitions, each with a seed of its own that both branches share."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from PIL import Image

from .client import Progress, Prompt, Result, run_prompt
from .errors import LaunchError
from .quality import Picture, psnr, ssim
from .server import Server

BRANCHES = ("uncached", "cached")  # how the prefix of a branch's saved files ends
TEXT_NODES = ("EncoreDemoPrompt", "CLIPTextEncode")
Ledger = Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """One timed repetition."""

    seed: int
    result: Result
    run: Ledger
    baseline: Ledger
    files: Mapping[str, list[Path]]  # by branch: pictures and clips as saved


@dataclass
class Measured:
    """All repetitions of a workflow and the numbers they make."""

    name: str
    row: dict[str, Any]  # the workflow's entry in report.json
    samples: list[Sample] = field(default_factory=list)


def sampler_steps(prompt: Prompt) -> int:
    """Steps of all samplers in a prompt, for the progress bar."""
    return sum(int(node["inputs"]["steps"]) for node in prompt.values() if _is_sampler(node))


def measure(server: Server, name: str, prompt: Prompt, repeats: int, progress: Callable[[int], Progress]) -> Measured:
    """A warm-up, then `repeats` runs that count. `progress` makes the listener of each run."""
    first = next((int(node["inputs"]["seed"]) for node in prompt.values() if _is_sampler(node)), 0)
    warm_up = run_prompt(server, _with_seed(prompt, first + repeats), progress(0))
    samples = []
    for repeat in range(repeats):
        seeded = _with_seed(prompt, first + repeat)
        samples.append(_sample(server, seeded, first + repeat, run_prompt(server, seeded, progress(repeat + 1))))
    return Measured(name, _row(name, prompt, warm_up, samples), samples)


def _is_sampler(node: Mapping[str, Any]) -> bool:
    """Whether a node takes a seed and a number of steps."""
    return {"seed", "steps"} <= set(node["inputs"])


def _with_seed(prompt: Prompt, seed: int) -> dict[str, Any]:
    """The prompt with `seed` in every sampler, so that both branches start from the same noise."""
    changed = copy.deepcopy(dict(prompt))
    for node in changed.values():
        if _is_sampler(node):
            node["inputs"]["seed"] = seed
    return changed


def _sample(server: Server, prompt: Prompt, seed: int, result: Result) -> Sample:
    """Collect the ledgers and the saved files of one run."""
    reports = [output["encore_report"][0] for output in result.outputs.values() if output.get("encore_report")]
    if not reports or not reports[0].get("baseline"):
        raise LaunchError("The workflow ran without an Encore Report that has a baseline. Link the uncached latent to it", server.log)
    return Sample(
        seed,
        result,
        reports[0]["run"],
        reports[0]["baseline"],
        {branch: list(_files(server, prompt, result, branch)) for branch in BRANCHES},
    )


def _files(server: Server, prompt: Prompt, result: Result, branch: str) -> Iterator[Path]:
    """What the save nodes of a branch wrote."""
    for number, output in result.outputs.items():
        if str(prompt[number]["inputs"].get("filename_prefix", "")).endswith(f"_{branch}"):
            for saved in output.get("images", []):
                yield server.home / "output" / saved["subfolder"] / saved["filename"]


def pictures(files: Sequence[Path]) -> list[Path]:
    """The still pictures among saved files."""
    return [file for file in files if file.suffix == ".png"]


def clips(files: Sequence[Path]) -> list[Path]:
    """The clips among saved files."""
    return [file for file in files if file.suffix != ".png"]


def read(picture: Path) -> Picture:
    """A picture's pixels [H, W, 3]."""
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


def _row(name: str, prompt: Prompt, warm_up: Result, samples: Sequence[Sample]) -> dict[str, Any]:
    """The entry in report.json: medians over the repetitions, means over the pictures."""
    run, baseline = samples[0].run, samples[0].baseline
    uncached, cached = median(sample.baseline["seconds"] for sample in samples), median(sample.run["seconds"] for sample in samples)
    pairs = [pair for sample in samples for pair in zip(*(map(read, pictures(sample.files[branch])) for branch in BRANCHES), strict=True)]
    counted = run["macs"] and baseline["macs"]
    return {
        "workflow": f"{name}.json",
        "model": next((node["inputs"]["unet_name"] for node in prompt.values() if "unet_name" in node["inputs"]), "?"),
        "recipe": run["recipe"],
        "steps": run["steps"],
        "computed": run["computed"],
        "uncached_s": uncached,
        "cached_s": cached,
        "speedup": uncached / cached,
        "macs_uncached": baseline["macs"],
        "macs_cached": run["macs"],
        "macs_reduction": baseline["macs"] / run["macs"] if counted else None,
        "psnr_db": mean(psnr(a, b) for a, b in pairs),
        "psnr_db_lowest": min(psnr(a, b) for a, b in pairs),
        "ssim": mean(ssim(a, b) for a, b in pairs),
        "text_s": _node_seconds(prompt, [warm_up], TEXT_NODES, sum),
        "vae_s": _node_seconds(prompt, [sample.result for sample in samples], ("VAEDecode",), median),
        "repetitions": [{"seed": s.seed, "uncached_s": s.baseline["seconds"], "cached_s": s.run["seconds"]} for s in samples],
        "pictures": [],
    }


def _node_seconds(prompt: Prompt, results: Sequence[Result], kinds: Sequence[str], fold: Callable[[list[float]], float]) -> float:
    """Seconds of the nodes of some kinds, folded; 0 when none ran."""
    seconds = [value for result in results for number, value in result.seconds.items() if prompt[number]["class_type"] in kinds]
    return fold(seconds) if seconds else 0.0
