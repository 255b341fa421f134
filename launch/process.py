"""Child processes that never outlive the command: each is a group of its own and the whole group is ended."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

GRACE = 5.0  # seconds between the polite and the hard end


def _die_with_parent() -> None:
    """Linux: have the kernel end this child when the command itself is killed outright."""
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def start(
    command: Sequence[str | Path], output: IO[bytes] | int | None, cwd: Path, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start `command` as a group of its own, its output and errors going to `output`."""
    first: Callable[[], None] | None = _die_with_parent if sys.platform == "linux" else None
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        cwd=cwd,
        env=None if env is None else dict(env),
        start_new_session=os.name != "nt",
        preexec_fn=first,  # noqa: PLW1509 (one C call that takes no lock)
    )


def end(process: "subprocess.Popen[bytes]") -> None:
    """End the whole group of `process` and wait for it."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
        process.wait()
        return
    _signal_group(process, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to every process of the group, if any is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], output: IO[bytes] | int | None, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that is gone, children and all, when the block is left in whatever way."""
    process = start(command, output, cwd, env)
    try:
        yield process
    finally:
        end(process)


def stop_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into an ordinary exit, so that every `finally` runs; heed SIGINT also where a shell had it ignored."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), leave)
