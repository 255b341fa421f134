"""The whole set-up of a command: which ComfyUI, which Python, and all that they need."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from . import comfyui, environment
from .lock import locked
from .paths import HOSTS


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the interpreter that runs it."""

    comfyui: Path
    python: Path
    found: bool  # the user's own, not one fetched by us

    def to_json(self) -> str:
        """The host as text, for the environment of the next call."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Host":
        """The host that `to_json` wrote."""
        fields = json.loads(text)
        return cls(Path(fields["comfyui"]), Path(fields["python"]), bool(fields["found"]))


def prepare() -> Host:
    """The host of `demo` and `serve`."""
    own = comfyui.find()
    if own is not None:
        python = environment.own_python(own)
        if python is not None:
            return Host(own, python, True)
    return _prepare(own, comfyui.DEFAULT)


def prepare_tests() -> list[Host]:
    """The hosts of `test`, the newest last: every version we know, or only the user's own."""
    own = comfyui.find()
    hosts = [_prepare(own, version) for version in ([comfyui.DEFAULT] if own else comfyui.SOURCES)]
    with locked(HOSTS / "lock"):
        environment.add_dev(hosts[0].python)
    return hosts[::-1]


def _prepare(own: Path | None, version: str) -> Host:
    """`.venv` with torch and the requirements of `own`, or of the fetched ComfyUI `version`."""
    with locked(HOSTS / "lock"):
        python = environment.make_venv()
        environment.add_torch(python)
        if own is None:
            environment.add_tools(python)
        folder = own or comfyui.get(version, python)
        environment.add_host(python, folder, exact=own is None and version == comfyui.DEFAULT)
        environment.add_fit(python)
    return Host(folder, python, own is not None)
