"""The set-up finds what is there, fetches only what is pinned, and fails in one line."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from pack.launch import comfyui, environment
from pack.launch.errors import LaunchError
from pack.launch.pip import explain

ROOT = Path(__file__).parents[1]


def make_comfyui(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.py").touch()
    return folder


def archive(folder: Path, names: list[str]) -> tuple[Path, str]:
    """A source distribution that holds files of these names, and its hash."""
    path = folder / "package.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(name)
            file.addfile(member, io.BytesIO(name.encode()))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def encore(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", "-S", str(ROOT / "encore"), *arguments]  # -S: without any installed package
    kept = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**kept, **variables})


def test_the_comfyui_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui(tmp_path / "here")))
    assert comfyui.find() == tmp_path / "here"


def test_a_named_folder_that_is_no_comfyui_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(LaunchError, match=r"holds no main\.py"):
        comfyui.find()


def test_the_comfyui_whose_custom_nodes_hold_the_pack_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    make_comfyui(tmp_path)
    assert comfyui.find(tmp_path / "custom_nodes" / "encore") == tmp_path
    assert comfyui.find(tmp_path / "elsewhere" / "encore") is None


def test_only_the_host_is_unpacked_and_it_appears_whole(tmp_path: Path) -> None:
    path, digest = archive(
        tmp_path, ["p-1/setup.py", "p-1/vendor/ComfyUI/main.py", "p-1/vendor/ComfyUI/comfy/sd.py", "p-1/vendor/ComfyUI/../../x"]
    )
    comfyui.unpack(path, digest, tmp_path / "host")
    found = sorted(str(file.relative_to(tmp_path / "host")) for file in (tmp_path / "host").rglob("*") if file.is_file())
    assert found == ["comfy/sd.py", "main.py"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["host", "package.tar.gz"]


def test_a_wrong_hash_unpacks_nothing(tmp_path: Path) -> None:
    path, _ = archive(tmp_path, ["p-1/vendor/ComfyUI/main.py"])
    with pytest.raises(LaunchError, match="expected 0000"):
        comfyui.unpack(path, "0" * 64, tmp_path / "host")
    assert [file.name for file in tmp_path.iterdir()] == ["package.tar.gz"]


def test_torch_and_its_family_are_left_out_of_the_requirements() -> None:
    text = "torch\ntorchaudio\nnumpy>=1.25.0\n\n#more:\nkornia>=0.7.1\npydantic~=2.0  # a comment\ncomfy-kitchen==0.2.26\n"
    assert environment.requirements(text) == {
        "numpy": "numpy>=1.25.0",
        "pydantic": "pydantic~=2.0",
        "comfy-kitchen": "comfy-kitchen==0.2.26",
    }


def test_what_an_interpreter_lacks_is_found_without_importing_it() -> None:
    assert environment.absent(Path(sys.executable), ["pytest", "no-such-distribution"]) == ["no-such-distribution"]


def test_a_layer_is_installed_once_and_again_after_a_break_or_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "VENV", tmp_path)
    calls: list[str] = []

    def broken() -> None:
        raise LaunchError("no network")

    with pytest.raises(LaunchError):
        environment.add_layer("tools", ["a"], broken)
    for content in (["a"], ["a"], ["b"]):
        environment.add_layer("tools", content, lambda: calls.append("installed"))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("WARNING: Retrying: NewConnectionError('...')\nERROR: No matching distribution found for torch", "cannot be reached"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "hash differs"),
        ("noise\nERROR: first\nERROR: No matching distribution found for x", "No matching distribution found for x"),
    ],
)
def test_the_cause_of_a_failed_install_is_read_from_its_output(output: str, cause: str) -> None:
    assert cause in explain(output)


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["test", "--help"], ["serve", "--help"]])
def test_help_needs_nothing_installed(arguments: list[str]) -> None:
    done = encore(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: encore")


@pytest.mark.parametrize("arguments", [["dance"], ["demo", "--repeats", "2"], ["demo", "--only", "sdxl"], ["serve", "--port", "high"], []])
def test_a_wrong_command_line_is_one_line(arguments: list[str]) -> None:
    done = encore(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--help" in done.stderr


def test_a_failure_is_one_line_and_a_non_zero_exit(tmp_path: Path) -> None:
    done = encore("demo", COMFYUI_PATH=str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "holds no main.py" in done.stderr
