"""./encore blockcache: profile, schedule and alignments of a demo model, and what its representations repeat from step to step."""

import argparse
import importlib
from pathlib import Path

from .bench import count, load_pack
from .errors import LaunchError
from .setup import Host

WHAT = ("profile", "schedule", "fit", "train")
HELP = "what to make, each from the ones before it; all: these four in turn; analysis: a figure of what the model repeats, and its numbers"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `blockcache`."""
    parser.add_argument("what", choices=(*WHAT, "all", "analysis"), help=HELP)
    parser.add_argument("model", choices=("flux", "wan"), help="the demo model")
    for name, text in {
        "trajectories": "samplings of the profile (default 64)",
        "rollouts": "roll-outs of the fit (default 32)",
        "iterations": "roll-outs of the training, a batch each (default 120)",
        "weighing": "prompts that an alignment is weighed on (default 16)",
        "steps": "steps of a sampling (default 50)",
        "batch": "prompts sampled at once (default 8)",
        "threads": "processor threads (default PyTorch's)",
    }.items():
        parser.add_argument(f"--{name}", type=count, metavar="N", help=text)
    parser.add_argument("--reduction", type=float, metavar="X", help="times fewer multiply-accumulates of the schedule (default 1.9)")
    parser.add_argument("--bf16", action="store_true", dest="half", help="train with products in bfloat16")
    words = "train with each block's input alone kept, and the block computed again: slower, a fraction of the memory"
    parser.add_argument("--checkpointed", action="store_true", help=words)
    parser.add_argument("--folder", type=Path, help="where the files go and are looked for (default: those that ship, demo/blockcache)")


def blockcache(host: Host, options: argparse.Namespace) -> int:
    """Make the files that `options` name."""
    if options.folder and not options.folder.is_dir():
        raise LaunchError(f"--folder names {options.folder}, which is no folder. Make it first")
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    making = importlib.import_module(f"{load_pack(host)}.bench.making")
    names = ("trajectories", "rollouts", "iterations", "weighing", "steps", "batch", "reduction", "half", "checkpointed", "folder")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    code: int = making.make(WHAT if options.what == "all" else (options.what,), making.Order(options.model, **given))
    return code
