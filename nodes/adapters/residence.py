"""Which models lie on the device: loading and offloading through the host's own management."""

from collections.abc import Sequence
from typing import Any

import comfy.model_management as host
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn


def managed(network: nn.Module) -> Any:
    """A ModelPatcher of a network, which the host moves to the device and away again."""
    return ModelPatcher(network, load_device=host.get_torch_device(), offload_device=host.unet_offload_device())


def bring(models: Sequence[Any], room: int) -> None:
    """Load models (ModelPatcher) and see that `room` bytes are free beside them; the host offloads others for it."""
    host.load_models_gpu(list(models), memory_required=room)


def offload(model: Any) -> None:
    """Move one model (ModelPatcher) and its clones off the device, and leave all others where they are."""
    others = [loaded for loaded in host.current_loaded_models if loaded.model is None or not loaded.model.is_clone(model)]
    host.free_memory(1e30, model.load_device, others)


def is_loaded(model: Any) -> bool:
    """Whether a model, or a clone of it, takes part in the host's management at present."""
    return any(loaded.model is not None and loaded.model.is_clone(model) for loaded in host.current_loaded_models)


def begin_peak(device: torch.device) -> None:
    """Start to watch how much memory the device gives."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """The most bytes in use since then; None where the device does not tell."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
