"""./encore demo: both before/after workflows through a real ComfyUI, and what came of it."""

import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .client import Progress, Prompt
from .comfyui import version_of
from .errors import LaunchError
from .home import passing_home
from .measure import BRANCHES, Measured, measure, sampler_steps
from .page import page
from .paths import DEMO, ROOT, WORKFLOWS
from .server import Server, serving
from .setup import Host
from .workflow import load, to_prompt

FAMILIES = ("flux", "wan")


def demo(host: Host, only: str | None, repeats: int, json_file: Path | None) -> int:
    """Run the demo workflows, write output/demo/ and print the table."""
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise LaunchError(f"{json_file} cannot be written: its folder does not exist. Make it, or name another")
    workflows = {
        name: load(WORKFLOWS / f"{name}.json") for name in (f"demo_{family}_before_after" for family in FAMILIES if only in (None, family))
    }
    print("Starting ComfyUI", file=sys.stderr, flush=True)
    with passing_home() as home, serving(host, home, "demo") as server:
        object_info = server.get("/object_info")
        prompts = {name: to_prompt(workflow, object_info) for name, workflow in workflows.items()}
        about = versions(server, host)
        measured = _measure_all(server, prompts, repeats)
        _write(measured, about, json_file)
    print(table([one.row for one in measured]))
    print(f"\nLook at {DEMO / 'report.html'}")
    return 0


def _measure_all(server: Server, prompts: Mapping[str, Prompt], repeats: int) -> list[Measured]:
    """Measure each workflow, one bar over the steps of all samplers in all repetitions."""
    total = sum(sampler_steps(prompt) for prompt in prompts.values()) * (repeats + 1)
    live = sys.stderr.isatty()
    with tqdm(total=total, unit="step", mininterval=0.2 if live else 10.0, dynamic_ncols=live) as bar:
        return [measure(server, name, prompt, repeats, _Listeners(bar, name, prompt)) for name, prompt in prompts.items()]


class _Listeners:
    """Moves the bar: makes for each repetition the function that hears of steps."""

    def __init__(self, bar: "tqdm[Any]", name: str, prompt: Prompt) -> None:
        self.bar, self.name, self.prompt = bar, name.split("_")[1], prompt

    def __call__(self, repeat: int) -> Progress:
        """The listener of one repetition; 0 is the warm-up."""
        done: dict[str, int] = {}
        self.bar.set_description(f"{self.name}, {f'repetition {repeat}' if repeat else 'warm-up'}")

        def listen(node: str, value: int, _total: int) -> None:
            if "steps" in self.prompt[node]["inputs"]:
                self.bar.update(value - done.get(node, 0))
                done[node] = value

        return listen


def versions(server: Server, host: Host) -> dict[str, Any]:
    """What the numbers were measured on."""
    stats = server.get("/system_stats")
    system, device = stats["system"], (stats.get("devices") or [{}])[0]
    return {
        "encore": _own_version(),
        "comfyui": system.get("comfyui_version") or version_of(host.comfyui),
        "python": platform.python_version(),
        "torch": system.get("pytorch_version"),
        "device": device.get("name", "?"),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _own_version() -> str:
    """The version in pyproject.toml; Python 3.10 has no parser of TOML."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version = "))


def _write(measured: Sequence[Measured], about: Mapping[str, Any], json_file: Path | None) -> None:
    """Replace output/demo/: pictures and clips of the first seed, the page, the numbers."""
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir(parents=True)
    for one in measured:
        for branch in BRANCHES:
            for number, file in enumerate(one.samples[0].files[branch], 1):
                name = f"{one.name.split('_')[1]}_{branch}_{number:02}{file.suffix}"
                shutil.copyfile(file, DEMO / name)
                one.row["pictures"].append(name)
    (DEMO / "report.html").write_text(page(measured, about), encoding="utf-8")
    text = json.dumps({"host": about, "runs": [one.row for one in measured]}, indent=1) + "\n"
    for target in [DEMO / "report.json", *([json_file] if json_file else [])]:
        target.write_text(text)


HEAD = ("model", "steps", "computed", "uncached s", "cached s", "speedup", "MACs", "PSNR dB", "SSIM", "text s", "VAE s")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The numbers as text, one line for each workflow."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEAD))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in cells)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One row of the table."""
    macs = "not counted" if row["macs_reduction"] is None else f"{row['macs_reduction']:.2f}x fewer"
    seconds = [f"{row[key]:.2f}" for key in ("uncached_s", "cached_s")]
    rest = (f"{row['psnr_db']:.1f}", f"{row['ssim']:.4f}", f"{row['text_s']:.3f}", f"{row['vae_s']:.3f}")
    return (Path(row["model"]).stem, str(row["steps"]), str(row["computed"]), *seconds, f"{row['speedup']:.2f}x", macs, *rest)
