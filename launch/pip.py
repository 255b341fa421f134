"""One call of pip: its output in the set-up log, its failure in one line."""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .errors import LaunchError
from .paths import LOGS, ROOT
from .process import running

LOG = LOGS / "setup.log"
CAUSES = (
    (r"No space left on device|Disk quota exceeded", "the disk is full; free about 4 GB and call again"),
    (r"DO NOT MATCH THE HASHES", "the downloaded file is not the pinned one (its hash differs); nothing of it was used"),
    (
        r"NewConnectionError|NameResolutionError|Max retries exceeded|ConnectTimeout|ReadTimeout|ProxyError|Connection refused"
        r"|Temporary failure in name resolution|Connection broken|RemoteDisconnected",
        "the package index cannot be reached; check the network or pip's settings and call again",
    ),
)


def pip(python: Path, what: str, arguments: Sequence[str | Path]) -> None:
    """Run pip of `python`; `what` names the step on the screen and in the error."""
    LOGS.mkdir(exist_ok=True)
    options = ["--disable-pip-version-check", "--require-virtualenv", "--no-input", "--retries", "3"]
    command = [
        python,
        "-m",
        "pip",
        *options,
        *arguments,
        *(["--no-compile"] if arguments[0] == "install" else []),
    ]  # what is used is compiled when used
    with LOG.open("ab") as log:
        log.write(f"\n== {what}\n".encode())
        log.flush()
        begin = log.tell()
        with running(command, log, ROOT) as process:
            _watch(process, what)
    if process.returncode:
        raise LaunchError(f"Setting up {what} failed: {explain(LOG.read_bytes()[begin:].decode(errors='replace'))}", LOG)


def explain(text: str) -> str:
    """The cause of a failed pip run, read from its output."""
    for pattern, cause in CAUSES:
        if re.search(pattern, text):
            return cause
    errors = re.findall(r"^ERROR: (.+)$", text, re.MULTILINE)
    return str(errors[-1]) if errors else "pip ended with an error"


def _watch(process: "subprocess.Popen[bytes]", what: str) -> None:
    """Show what is being set up and for how long, until the process ends."""
    begin, live = time.monotonic(), sys.stderr.isatty()
    while True:
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            if live:
                print(f"\r  {what} ... {time.monotonic() - begin:.0f} s", end="", file=sys.stderr, flush=True)
            continue
        break
    start = "\r" if live else ""
    print(f"{start}  {what}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
