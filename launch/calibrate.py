"""./encore calibrate: what TRACE needs to know of a demo model, as a file."""

import argparse
import importlib
from pathlib import Path

from .bench import count, load_pack
from .errors import LaunchError
from .setup import Host


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `calibrate`."""
    parser.add_argument("model", choices=("flux", "wan", "universal"), help="the demo model; universal: all of them, and the DiTs, as one")
    parser.add_argument("file", type=Path, help="the calibration, written whole or not at all")
    parser.add_argument("--prompts", type=count, default=16, metavar="N", help="trajectories (default 16)")
    parser.add_argument("--speeds", type=speed, nargs="*", default=(), metavar="S", help="speeds to rehearse, of one model (default none)")
    parser.add_argument("--steps", type=count, default=50, metavar="N", help="steps of a trajectory (default 50)")


def calibrate(host: Host, options: argparse.Namespace) -> int:
    """Sample and write the file that `options` name."""
    if not options.file.resolve().parent.is_dir():
        raise LaunchError(f"{options.file} cannot be written: its folder does not exist. Make it, or name another")
    if options.speeds and options.model == "universal":
        raise LaunchError("--speeds are rehearsed with one model, and the universal calibration is of several. Leave them out")
    module = importlib.import_module(f"{load_pack(host)}.bench.calibrate")
    code: int = module.calibrate(options.model, options.prompts, options.steps, options.speeds, options.file)
    return code


def speed(text: str) -> float:
    """A number above 1 and up to 6."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 1.0 < found <= 6.0:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 1 and up to 6")
    return found
