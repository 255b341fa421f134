"""A server of ours runs prompts, dies audibly, and leaves no process behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from pack.launch.client import run_prompt
from pack.launch.errors import LaunchError
from pack.launch.home import passing_home
from pack.launch.server import Server, serving
from pack.launch.setup import Host

ROOT = Path(__file__).parents[1]
ANSWERS = """
import http.server, pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("child").write_text(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
COMMAND = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from launch.process import running, stop_on_signals
stop_on_signals()
with running([sys.executable, "-c", "import time; time.sleep(600)"], None, Path(".")) as child:
    print(child.pid, flush=True)
    child.wait()
"""
PICTURE = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 1, "color": 255}}


def host_of(folder: Path, program: str) -> Host:
    """A stand-in whose main.py is `program`; what it takes to watch a process is the same."""
    (folder / "main.py").write_text(program)
    return Host(folder, Path(sys.executable), True)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def wait_until_gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_running(pid)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A real ComfyUI."""
    with pytest.MonkeyPatch.context() as patch, passing_home() as home:
        patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
        with serving(Host(Path(folder_paths.__file__).parent, Path(sys.executable), True), home, "test-launch", cpu=True) as started:
            yield started


@pytest.mark.host
def test_the_pack_is_the_only_custom_node(server: Server) -> None:
    modules = {info["python_module"] for info in server.get("/object_info").values()}
    assert {module for module in modules if module.startswith("custom_nodes")} == {"custom_nodes.encore"}


@pytest.mark.host
def test_a_prompt_returns_its_outputs_and_the_seconds_of_its_nodes(server: Server) -> None:
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "some/picture"}}
    result = run_prompt(server, {"1": PICTURE, "2": save})
    saved = result.outputs["2"]["images"][0]
    assert (server.home / "output" / saved["subfolder"] / saved["filename"]).is_file()
    assert set(result.seconds) == {"1", "2"}


@pytest.mark.host
def test_a_refused_prompt_names_the_node_and_the_reason(server: Server) -> None:
    save: dict[str, Any] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    with pytest.raises(LaunchError, match=r"node 2 \(SaveImage\).*images") as failure:
        run_prompt(server, {"2": save})
    assert "\n" not in str(failure.value)


@pytest.mark.host
def test_a_failing_node_names_itself_and_the_log(server: Server) -> None:
    crop = {"class_type": "ImageFromBatch", "inputs": {"image": ["1", 0], "batch_index": 0, "length": 1}}
    decode = {"class_type": "EncoreReport", "inputs": {"latent": ["3", 0]}}
    latent = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    with pytest.raises(LaunchError, match=r"failed at node 4 \(EncoreReport\)") as failure:
        run_prompt(server, {"1": PICTURE, "2": crop, "3": latent, "4": decode})
    assert str(server.log) in str(failure.value)


def test_a_server_that_dies_at_once_is_one_line_with_its_last_error(tmp_path: Path) -> None:
    host = host_of(tmp_path, "raise OSError('no room for models')")
    with (
        pytest.raises(LaunchError, match=r"ended with code 1: OSError: no room for models.*\(log: .*test-dead\.log\)") as failure,
        serving(host, tmp_path / "home", "test-dead", cpu=True),
    ):
        pytest.fail("it never answered")
    assert "\n" not in str(failure.value)


def test_a_server_that_dies_in_mid_prompt_is_one_line(tmp_path: Path) -> None:
    with serving(host_of(tmp_path, ANSWERS), tmp_path / "home", "test-dies", cpu=True) as server:
        server.process.kill()
        with pytest.raises(LaunchError, match="ComfyUI ended with code"):
            run_prompt(server, {"1": PICTURE})


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(LaunchError, match=f"Port {port} cannot be used"),
            serving(host_of(tmp_path, ANSWERS), tmp_path / "home", "test-port", port, cpu=True),
        ):
            pytest.fail("the port is taken")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt, SystemExit])
def test_no_process_is_left_however_the_block_is_left(tmp_path: Path, failure: type[BaseException] | None) -> None:
    pids: list[int] = []
    with (
        contextlib.suppress(RuntimeError, KeyboardInterrupt, SystemExit),
        serving(host_of(tmp_path, ANSWERS), tmp_path, "test-end", cpu=True) as server,
    ):
        pids = [server.process.pid, int((tmp_path / "child").read_text())]
        assert all(is_running(pid) for pid in pids)
        if failure:
            raise failure
    assert all(wait_until_gone(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_process_is_left_when_the_command_is_ended_by_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    program = COMMAND.format(root=str(ROOT))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path
    ) as command:
        assert command.stdout is not None
        child = int(command.stdout.readline())
        command.send_signal(number)
        try:
            command.wait(20)
        finally:
            command.kill()
    assert wait_until_gone(child)


def test_a_passing_home_leaves_nothing_and_never_touches_the_pack(tmp_path: Path) -> None:
    with passing_home() as home, serving(host_of(tmp_path, ANSWERS), home, "test-home", cpu=True):
        assert (home / "custom_nodes" / "encore" / "encore").is_file()
    assert not home.exists()
    assert (ROOT / "encore").is_file()
