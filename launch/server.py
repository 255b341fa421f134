"""A ComfyUI server of our own: started headless, watched, and gone when the block is left."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LaunchError
from .home import MODEL_PATHS, PACK, furnish
from .paths import LOGS
from .process import running
from .setup import Host

DEADLINE = 600.0  # seconds from the start until the first answer; a server that died is noticed at once
LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A running ComfyUI."""

    port: int
    log: Path
    home: Path
    process: "subprocess.Popen[bytes]"

    @property
    def address(self) -> str:
        """Where a client or a browser finds it."""
        return f"http://{LOCAL}:{self.port}"

    def check_alive(self) -> None:
        """Raise when the process has ended."""
        if self.process.poll() is not None:
            raise LaunchError(
                f"ComfyUI ended with code {self.process.returncode}: {last_error(self.log)}. Read the log, then call again", self.log
            )

    def get(self, path: str, timeout: float = 60.0) -> Any:
        """The JSON that a GET request is answered with."""
        with urllib.request.urlopen(self.address + path, timeout=timeout) as answer:
            return json.load(answer)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Raise when somebody listens on `port`, or it is none."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCAL, port))
        except (OSError, OverflowError) as error:
            raise LaunchError(f"Port {port} cannot be used ({error}). Choose another with --port, or end what listens there") from error


@contextlib.contextmanager
def serving(host: Host, home: Path, name: str, port: int | None = None, *, cpu: bool | None = None) -> Iterator[Server]:
    """ComfyUI on `port` (a free one when None), its base directory `home`, its log `.logs/<name>.log`."""
    if port is None:
        port = free_port()
    else:
        check_port(port)
    furnish(home, host.comfyui)
    LOGS.mkdir(exist_ok=True)
    log = LOGS / f"{name}.log"
    with log.open("wb") as output, running(_command(host, home, port, cpu), output, home, _environment()) as process:
        server = Server(port, log, home, process)
        _await(server)
        yield server


def _command(host: Host, home: Path, port: int, cpu: bool | None) -> list[str | Path]:
    """ComfyUI's command line. Other people's custom nodes stay out: they cost time and can change a measurement."""
    command: list[str | Path] = [host.python, "-u", host.comfyui / "main.py", "--listen", LOCAL, "--port", str(port)]
    command += ["--disable-auto-launch", "--disable-api-nodes", "--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK]
    command += ["--base-directory", home, "--extra-model-paths-config", home / MODEL_PATHS]
    command += ["--database-url", f"sqlite:///{home / 'user' / 'comfyui.db'}"]
    return [*command, "--cpu"] if (lacks_accelerator() if cpu is None else cpu) else command


def lacks_accelerator() -> bool:
    """True where torch finds no GPU of any kind; there ComfyUI starts only when told --cpu."""
    import torch

    return not (torch.cuda.is_available() or torch.backends.mps.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available()))


def _environment() -> dict[str, str]:
    """The variables of this process without those that would change ComfyUI's imports."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSTARTUP")}


def _await(server: Server) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        server.check_alive()
        with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
            server.get("/system_stats", timeout=5.0)
            return
        time.sleep(0.1)
    raise LaunchError(f"ComfyUI did not answer within {DEADLINE:.0f} s. Read the log, then call again", server.log)


def last_error(log: Path) -> str:
    """The last line of a log that names an error, or the last line of all."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"^\w*(Error|Exception)\b|OSError|Errno", line)]
    return (errors or lines or ["no output"])[-1][:300]
