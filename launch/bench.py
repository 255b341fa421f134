"""./encore bench: loads the pack as ComfyUI does, beside the real ComfyUI, and runs one of its benchmarks in this process."""

import argparse
import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from .errors import LaunchError
from .home import PACK
from .paths import ROOT
from .setup import Host

NAMES = {
    "methods": "every published method at its recommended setting, next to fewer steps at the same cost",
    "frontier": "quality against cost: TRACE next to reuse, order 1 and fewer steps at 1.5 to 5 times",
    "ablations": "TRACE with one part left out, or calibrated for something else, at 2 and 4 times",
    "probe": "what the first blocks would tell of the prediction if they ran at skipped steps",
    "code": "CoDe on the demo VARs: seconds, memory and quality at every number of drafted scales (a prompt: a batch of 32)",
    "blockcache": "Block Caching's shipped schedules, without an alignment, and with those alignments that ship",
    "skip": "Skip-Cache on the demo DiT with skip branches and on its twin without, and on the others with a fitted branch",
    "overhead": "what Encore itself costs in an evaluation that is computed and in one that is skipped, and what it keeps",
}


MODELS, SKIPPED = ("flux", "wan"), ("flux-skip", "dit-skip", "dit")  # for all benchmarks, and for skip alone


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `bench`."""
    parser.add_argument("name", choices=NAMES, metavar="NAME", help="; ".join(f"{name}: {text}" for name, text in NAMES.items()))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to FILE, whole or not at all")
    parser.add_argument("--model", choices=(*MODELS, *SKIPPED), help="run only this demo model; the last three are for skip")
    parser.add_argument("--sampler", metavar="NAME", help="a sampler of ComfyUI in place of euler, such as dpmpp_2m")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="METHOD", help="of bench methods, frontier or blockcache, only these, such as trace"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw PSNR against MACs saved as a PNG, where the benchmark has both")
    parser.add_argument(
        "--join",
        nargs="+",
        type=Path,
        default=(),
        metavar="FILE",
        help="add rows that runs with other --only methods wrote to FILE",
    )
    parser.add_argument("--quick", action="store_true", help="4 prompts, 20 steps, 1 round of timing, where nothing else is said")
    for name, text in {
        "prompts": "held-out prompts (default 16)",
        "steps": "steps of the uncached run (default 50)",
        "rounds": "timed repetitions of everything, each on one prompt (default 5)",
        "batch": "prompts sampled at once for quality (default 16)",
        "threads": "processor threads (default PyTorch's)",
    }.items():
        parser.add_argument(f"--{name}", type=count, metavar="N", help=text)


def bench(host: Host, options: argparse.Namespace) -> int:
    """Run the benchmark that `options` name."""
    for name, file in (("json", options.json), ("plot", options.plot)):
        if file and not file.resolve().parent.is_dir():
            raise LaunchError(f"--{name} names {file}, and there is no folder {file.resolve().parent}. Make it first")
    if options.model in SKIPPED and options.name != "skip":
        raise LaunchError(f"--model {options.model} is there for bench skip alone. Leave it out or name flux or wan")
    if options.only and options.name not in ("methods", "frontier", "blockcache"):
        raise LaunchError(f"--only chooses from the rows of bench methods, frontier and blockcache, not of {options.name}. Leave it out")
    if missing := [str(file) for file in options.join if not file.is_file()]:
        raise LaunchError(f"--join names {', '.join(missing)}, which cannot be found. Name files that --json wrote")
    pack = load_pack(host)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    run = importlib.import_module(f"{pack}.bench.run")
    sizes = {name: getattr(options, name) for name in ("prompts", "steps", "rounds", "batch")} | {"only": tuple(options.only)}
    size = run.size(options.quick, **{name: value for name, value in sizes.items() if value})
    families = [options.model] if options.model else [*MODELS]
    if options.name == "skip" and not options.model:
        families += SKIPPED
    command = " ".join(["./encore", *sys.argv[1:]])
    code: int = run.bench(
        options.name, families, size, command, run.Files(options.json, options.plot, tuple(options.join)), options.sampler
    )
    return code


def load_pack(host: Host) -> str:
    """Import the pack by its path and put ComfyUI on Python's; the name of the package.

    The pack's own folder leaves Python's path, since its nodes/ would shadow ComfyUI's nodes.py.
    """
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != ROOT]
    sys.path.insert(0, str(host.comfyui))
    from comfy.cli_args import args  # type: ignore[import-not-found, unused-ignore]
    from torch.cuda import is_available

    args.cpu = not is_available()
    spec = spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    pack: Any = module_from_spec(spec)
    sys.modules[PACK] = pack
    spec.loader.exec_module(pack)
    return PACK


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of 1 or more")
    return int(text)
