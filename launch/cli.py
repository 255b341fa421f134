"""The sub-commands of ./encore and how each failure becomes one line."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import blockcache, calibrate, skip
from .bench import add_options
from .errors import LaunchError
from .paths import LOGS, ROOT
from .process import stop_on_signals
from .setup import Host, prepare, prepare_tests

INSIDE = "ENCORE_HOST"  # set for the second call of ./encore, which runs in the Python that has been set up
DEMO = "Set up what is missing, start ComfyUI, run the demo workflows and write output/demo/: report.html, report.json, pictures and clips."
TEST = "Set up what is missing, then run ruff, mypy and pytest on every known ComfyUI. All arguments go to pytest."
BENCH = "Set up what is missing and run a benchmark on the demo models in the real ComfyUI, in this process."
CALIBRATE = "Set up what is missing, sample a demo model uncached and write what TRACE needs of it to a file."
BLOCKCACHE = "Set up what is missing and make Block Caching's files of a demo model: profile, schedule, alignments."
SKIP = "Set up what is missing and train skip branches on a demo model, or fit one in closed form; writes a file for the nodes."
SERVE = "Set up what is missing and run ComfyUI with the pack and the demo models for a browser until Ctrl-C."


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """End with the complaint and where to read on."""
        raise SystemExit(_complain(f"{message}. See ./{self.prog} --help", 2))


def parser() -> Parser:
    """The command line."""
    top = Parser(prog="encore", description="Encore: diffusion transformers that sample twice as fast, shown on this machine.")
    commands = top.add_subparsers(dest="command", required=True, metavar="{demo,test,serve,bench,calibrate,blockcache,skip}")
    demo = commands.add_parser("demo", help="sample two small models without and with the cache and report", description=DEMO)
    demo.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of the report to FILE too")
    demo.add_argument("--only", choices=("flux", "wan"), help="run only this model")
    demo.add_argument(
        "--repeats", type=_repeats, default=3, metavar="N", help="timed repetitions, at least 3 (default 3); medians are reported"
    )
    commands.add_parser("test", help="check the code and run the tests", description=TEST, usage="encore test [-h] [pytest args]")
    serve = commands.add_parser("serve", help="run ComfyUI with the pack for a browser", description=SERVE)
    serve.add_argument("--port", type=int, default=8188, help="port on this machine (default 8188)")
    add_options(commands.add_parser("bench", help="measure methods and overhead on the demo models", description=BENCH))
    calibrate.add_options(commands.add_parser("calibrate", help="learn a demo model's trajectories for TRACE", description=CALIBRATE))
    blocks = commands.add_parser("blockcache", help="profile, schedule and align a demo model's blocks", description=BLOCKCACHE)
    blockcache.add_options(blocks)
    skip.add_options(commands.add_parser("skip", help="train or fit skip branches of a demo model", description=SKIP))
    return top


def _repeats(text: str) -> int:
    """A number of repetitions that has a median worth the name."""
    if not text.isdecimal() or int(text) < 3:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of 3 or more")
    return int(text)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and what is handed on to pytest."""
    if arguments and arguments[0] == "test" and not {"-h", "--help"} & set(arguments[1:2]):
        return argparse.Namespace(command="test"), list(arguments[1:])
    return parser().parse_args(arguments), []


def main(arguments: Sequence[str]) -> int:
    """Run a command; the exit code."""
    options, rest = parse(arguments)
    stop_on_signals()
    try:
        if options.command == "test":
            from .check import check

            return check(prepare_tests(), rest)
        if INSIDE not in os.environ:
            return _call_inside(prepare(), arguments)
        return _run(Host.from_json(os.environ[INSIDE]), options)
    except LaunchError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return _complain("stopped", 130)
    except OSError as error:
        return _complain(f"{error}. Free disk space or mend the permissions and call again (logs: {LOGS})")


def _run(host: Host, options: argparse.Namespace) -> int:
    """The commands that need what has been set up."""
    if options.command == "serve":
        from .serve import serve

        return serve(host, options.port)
    if options.command == "bench":
        from .bench import bench

        return bench(host, options)
    if options.command == "calibrate":
        return calibrate.calibrate(host, options)
    if options.command == "blockcache":
        return blockcache.blockcache(host, options)
    if options.command == "skip":
        return skip.skip(host, options)
    from .demo import demo

    return demo(host, options.only, options.repeats, options.json)


def _call_inside(host: Host, arguments: Sequence[str]) -> int:
    """Call ./encore again in the Python of `host`."""
    command = [str(host.python), str(ROOT / "encore"), *arguments]
    environment = {**os.environ, INSIDE: host.to_json()}
    if os.name != "nt":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, environment)
    return subprocess.run(command, env=environment, check=False).returncode


def _complain(message: str, code: int = 1) -> int:
    """Print the one line of a failure."""
    print(f"encore: {message}", file=sys.stderr, flush=True)
    return code
