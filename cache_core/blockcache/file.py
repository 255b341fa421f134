"""Profiles, schedules and alignments as files: safetensors with a JSON header, written whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CacheError
from ..types import Branch, Place

FORMAT = 1
KEY = "encore"


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write `tensors` with a `header` that JSON can say, beside `path` first and then in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    known = {KEY: json.dumps({"format": FORMAT, "kind": kind, **header})}
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, part, known)
    os.replace(part, path)


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `write` made of this kind. Raises CacheError for any other file and a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CacheError(f"There is no {kind} at {path.name}. Make one with Encore Block Caching's nodes, or choose another.") from error
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CacheError(f"{path.name} is damaged and cannot be read ({error}). Delete it and make it again.") from error
    found = header.get("kind", "no word of Encore's") if isinstance(header, dict) else "no word of Encore's"
    if found != kind:
        raise CacheError(f"{path.name} is a safetensors file that holds {found}, and a {kind} was expected. Choose another file.")
    if header["format"] != FORMAT:
        raise CacheError(f"{path.name} has format {header['format']}, and this Encore reads {FORMAT}. Update Encore or make it anew.")
    return tensors, header


def place_words(place: Place) -> list[Any]:
    """A place as JSON has it."""
    return [place.index, place.branch.value if place.branch else None]


def place_of(words: list[Any]) -> Place:
    """The inverse of `place_words`."""
    return Place(int(words[0]), Branch(words[1]) if words[1] else None)
