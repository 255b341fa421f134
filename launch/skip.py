"""./encore skip: skip branches for a demo model, trained or fitted in closed form."""

import argparse
import importlib
from pathlib import Path

from .bench import count, load_pack
from .errors import LaunchError
from .setup import Host


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `skip`."""
    parser.add_argument("how", choices=("train", "fit"), help="train: branches by rectified flow; fit: the branch in closed form")
    parser.add_argument("model", choices=("flux", "wan"), help="the demo model")
    parser.add_argument("file", type=Path, help="the branches, written whole or not at all; a training's state is kept beside them")
    parser.add_argument(
        "--steps", type=count, metavar="N", help="train: optimiser steps in all (default 500); fit: sampling steps (default 50)"
    )
    parser.add_argument("--batch", type=count, default=8, metavar="N", help="scenes at once (default 8)")
    parser.add_argument("--scenes", type=count, default=256, metavar="N", help="train: scenes to learn from (default 256)")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="N", help="train: rank of the LoRAs of the second stage (default 0: the first)"
    )
    parser.add_argument("--rate", type=float, default=1e-3, metavar="X", help="train: learning rate (default 0.001)")
    parser.add_argument(
        "--checkpointed", action="store_true", help="train: keep each block's input alone and compute it again; less memory"
    )
    parser.add_argument("--losses", type=Path, metavar="FILE.png", help="train: also draw the losses")
    parser.add_argument("--start", type=Path, metavar="FILE", help="train: branches of an earlier stage to start from")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="train: also draw how features change, without and with branches")
    parser.add_argument("--threads", type=count, metavar="N", help="processor threads (default PyTorch's)")


def skip(host: Host, options: argparse.Namespace) -> int:
    """Make the file that `options` name."""
    for path in (options.file, options.figure, options.losses):
        if path and not path.resolve().parent.is_dir():
            raise LaunchError(f"{path} cannot be written: its folder does not exist. Make it, or name another")
    pack = load_pack(host)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    module = importlib.import_module(f"{pack}.bench.skip_making")
    code: int = module.fit(options) if options.how == "fit" else module.train(options)
    return code
