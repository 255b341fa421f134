"""Trains skip branches on the host's models: each step is a sampling of the host's whose sampler learns instead of sampling."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...cache_core import CacheError
from ...cache_core.skip.lora import LoRA, laid, loras
from ...cache_core.skip.train import Training
from . import options
from .families import blocks_of
from .lessons import checkpointing, copying, differentiable, ordinary, with_patches
from .skips import attach_branches

KEY = "encore skip lesson"


@dataclass(frozen=True, slots=True)
class Material:
    """What is learned from: latents [N, C, ...] as encoded, and the host's conditions, one for each latent or one for all."""

    latents: Tensor
    conditions: Sequence[Any]
    negative: Any

    def __post_init__(self) -> None:
        rows, told = len(self.latents), len(self.conditions)
        if told not in (1, rows):
            raise CacheError(
                f"There are {rows} latents and {told} conditions. Give a condition for each latent in their order, or one for all."
            )

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, list[Any]]:
        """Latents, and one condition with a row for each of them."""
        latents = ordinary(self.latents)[list(rows)]
        if len(self.conditions) == 1:
            context, extra = self.conditions[0]
            every = len(context) == len(self.latents)
            return latents, [[_rows(context, rows, every), {key: _rows(value, rows, every) for key, value in extra.items()}]]
        parts = [self.conditions[row] for row in rows]
        context = torch.cat([ordinary(part[0]) for part in parts])
        extra = {
            key: torch.cat([ordinary(part[1][key]) for part in parts]) if _stacks(value) else value for key, value in parts[0][1].items()
        }
        return latents, [[context, extra]]


def _stacks(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1


def _rows(value: Any, rows: Sequence[int], every: bool) -> Any:
    if not isinstance(value, Tensor) or not every or len(value) <= max(rows):
        return ordinary(value)
    return ordinary(value)[list(rows)]


@dataclass(frozen=True, slots=True, eq=False)
class Pupil:
    """A model (ModelPatcher) and what is trained on it: its branches and, in the second stage, LoRAs."""

    model: Any
    branches: nn.ModuleList
    adapters: Mapping[str, LoRA]
    half: bool

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All that is trained, by name."""
        found: dict[str, nn.Module] = {"branches": self.branches}
        return found | (
            {"lora": nn.ModuleDict({key.replace(".", "/"): lora for key, lora in self.adapters.items()})} if self.adapters else {}
        )


def pupil(model: Any, branches: nn.ModuleList, rank: int, checkpointed: bool, half: bool, seed: int) -> Pupil:
    """What is trained on `model`: `branches`, and LoRAs of `rank`, drawn by `seed`, on its blocks if that is not 0."""
    network = model.model.diffusion_model
    blocks = blocks_of(network)
    assert blocks is not None, "the branches were made for it"
    lists = [name for name in (blocks.double, blocks.single) if name]
    made = loras(network, lists, rank, seed) if rank else {}
    taught = model.clone()
    taught.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, _lesson(checkpointed))  # outside of the branches
    taught = attach_branches(taught, branches)
    return Pupil(taught, branches, {name: lora.to(model.load_device) for name, lora in made.items()}, half)


def with_lora(model: Any, file: Path) -> Any:
    """A clone of `model` (ModelPatcher) with the LoRAs of a file at full strength, as the host loads them."""
    return comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(file), safe_load=True), 1.0, 0.0)[0]


def learn(pupil: Pupil, training: Training, material: Material, rows: Sequence[int], seed: int) -> None:
    """One step on these rows of the material, at noise levels drawn by `seed`; rectified flow's loss, the model's own for others."""
    latents, condition = material.batch(rows)
    noise = comfy.sample.prepare_noise(latents, seed)
    sampler, sigmas = _Lesson(pupil, training, seed), torch.tensor([1.0, 0.0])
    comfy.sample.sample_custom(
        pupil.model, noise, 1.0, sampler, sigmas, condition, material.negative, latents, disable_pbar=True, seed=seed
    )


class _Lesson(comfy.samplers.Sampler):
    """Called by the host as a sampler."""

    def __init__(self, pupil: Pupil, training: Training, seed: int) -> None:
        self.pupil, self.training, self.seed = pupil, training, seed

    def sample(self, wrapped: Any, sigmas: Tensor, extra: Any, callback: Any, noise: Tensor, latent: Tensor, *_: Any, **__: Any) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sampling = wrapped.inner_model.model_sampling
        generator = torch.Generator().manual_seed(self.seed)
        shares = torch.rand(len(latent), generator=generator).tolist()
        sigma = torch.tensor([float(sampling.percent_to_sigma(0.01 + 0.98 * share)) for share in shares]).to(latent)
        level = sigma.reshape(-1, *(1 for _ in latent.shape[1:]))
        device = latent.device.type
        network = wrapped.inner_model.diffusion_model
        half: Any = torch.autocast(device, torch.bfloat16) if self.pupil.half else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), differentiable(network), laid(network, dict(self.pupil.adapters)), half:
            clean, mixed = ordinary(latent), sampling.noise_scaling(level, ordinary(noise), ordinary(latent))
            denoised = wrapped(mixed, sigma, **extra)
            self.training.learn(((denoised.float() - clean.float()) / level).square().mean())
        return latent


def _lesson(checkpointed: bool) -> Callable[..., Any]:
    """Wrapper of one pass through the network: blocks get copies of their tokens and, if asked for, keep nothing else."""

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = tuple(map(ordinary, args)), {key: ordinary(value) for key, value in kwargs.items()}
        with checkpointing(executor.class_obj, checkpointed):
            return with_patches(executor, args, kwargs, copying(executor.class_obj), {options.KEY: None})

    return wrapper
