"""Reads published VAR and CoDe files (.pth) and our own (.safetensors) into models of the sizes found in them."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import CacheError
from . import transformer, vqvae
from .transformer import VAR
from .vqvae import VQVAE

Model = TypeVar("Model", bound=nn.Module)
DERIVED = ("attn_bias_for_masking", "zero_k_bias")  # stored by the published code, and known without


def load_var(path: Path, dtype: torch.dtype = torch.float32) -> VAR:
    """The transformer in a file such as var_d16.pth, drafter_8.pth or refiner_8.pth."""
    weights = _read(path)
    model = VAR(transformer.Layout.of(weights))
    return _filled(model, {"lvl_1L": model.lvl_1L} | weights, path, dtype)


def load_vqvae(path: Path, dtype: torch.dtype = torch.float32) -> VQVAE:
    """The codec in a file such as vae_ch160v4096z32.pth."""
    weights = _read(path)
    if "quantize.embedding.weight" not in weights or "encoder.conv_in.weight" not in weights:
        raise CacheError(
            f"{path.name} is not a VAR's codec: it lacks 'quantize.embedding.weight' or 'encoder.conv_in.weight'. Choose a file such as "
            "vae_ch160v4096z32.pth; transformers go into the other input."
        )
    return _filled(VQVAE(vqvae.Layout.of(weights)), weights, path, dtype)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by key. Nothing in it is executed."""
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CacheError(f"{path.name} cannot be read as a weight file ({error}). Download it again.") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CacheError(f"{path.name} is not a table of tensors, as VAR's and CoDe's files are. Choose a file of weights alone.")
    return {key: value for key, value in found.items() if not key.endswith(DERIVED)}


def _filled(model: Model, weights: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> Model:
    missing, unknown = model.load_state_dict(weights, strict=False, assign=True)
    if missing or unknown:
        raise CacheError(
            f"{path.name} does not have the published keys: {len(missing)} are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} are not known ({', '.join(unknown[:3])}). Choose a file as VAR or CoDe published it."
        )
    return model.to(dtype).eval().requires_grad_(False)
