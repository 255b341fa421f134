"""DiT and Latte as models of the host: networks that its samplers call, with class labels or a text for conditions."""

from pathlib import Path
from typing import Any

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.supported_models_base
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.nn import functional

from ...cache_core import CacheError
from ...cache_core.skip.checkpoint import ours, read, shape_of
from ...cache_core.skip.dit import DiT, Shape
from ...cache_core.skip.latte import Latte
from ...cache_core.skip.latte_t2v import LatteT2V

LABEL = "encore_label"  # under which a condition carries its class labels


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, options: Any) -> Tensor:
    result: Tensor = optimized_attention(q, k, v, heads, transformer_options=options)
    return result


class _Called:
    """Calls a network through the wrappers that the host's own networks call."""

    dtype: torch.dtype

    def call(self, options: dict[str, Any] | None, *args: Any) -> Any:
        """The network's own forward with `args` and the options."""
        options = options or {}
        wrappers = comfy.patcher_extension.get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        inner = comfy.patcher_extension.WrapperExecutor.new_class_executor(super().forward, self, wrappers)  # type: ignore[misc]
        return inner.execute(*args, options)


class HostDiT(_Called, DiT):
    """DiT in the host."""

    def forward(self, x: Tensor, timesteps: Tensor, y: Any = None, transformer_options: Any = None, **_: Any) -> Any:
        return self.call(transformer_options, x, timesteps, y)


class HostLatte(_Called, Latte):
    """Latte in the host."""

    def forward(self, x: Tensor, timesteps: Tensor, y: Any = None, transformer_options: Any = None, **_: Any) -> Any:
        return self.call(transformer_options, x, timesteps, y)


class HostLatteT2V(_Called, LatteT2V):
    """LatteT2V in the host."""

    def forward(self, x: Tensor, timesteps: Tensor, context: Any = None, transformer_options: Any = None, **_: Any) -> Any:
        return self.call(transformer_options, x, timesteps, context)


Network = DiT | Latte | LatteT2V


def _network(shape: Shape, dtype: Any = None, device: Any = None, operations: Any = None, **_: Any) -> Network:
    kind = HostLatteT2V if shape.text else HostLatte if shape.frames else HostDiT
    network = kind(shape, _attend, operations, dtype=dtype, device=device)
    network.dtype = dtype
    return network


class _Clip(comfy.latent_formats.SD15):
    """Stable Diffusion's latents, a frame after the other."""

    latent_dimensions = 3


class Labelled(comfy.model_base.BaseModel):
    """A diffusion model whose conditions are class labels."""

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        found = {}
        label = kwargs.get(LABEL)
        if label is not None:
            classes = self.diffusion_model.shape.classes
            if int(label.max()) >= classes:
                raise CacheError(
                    f"There is no class {int(label.max())}: the model has 0 to {classes - 2}, and {classes - 1} stands for none."
                )
            found["y"] = comfy.conds.CONDRegular(torch.where(label < 0, classes - 1, label))
        return found


class Captioned(comfy.model_base.BaseModel):
    """A diffusion model whose conditions are the tokens of a text encoder."""

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        text, expected = kwargs.get("cross_attn"), self.diffusion_model.shape.text
        if text is None or text.shape[-1] != expected:
            found = "none" if text is None else f"tokens of width {text.shape[-1]}"
            raise CacheError(
                f"The model reads a text's tokens of width {expected}, and the condition has {found}. Take CLIP Text Encode with a "
                "T5-XXL from Load CLIP, type pixart."
            )
        # What the host repeats to make two texts equally long does not change what is attended to.
        return {"c_crossattn": comfy.conds.CONDCrossAttn(kept(text, kwargs.get("attention_mask")))}


def kept(text: Tensor, mask: Tensor | None) -> Tensor:
    """The tokens [B, M, T] of `text` [B, L, T] that `mask` [B, L] keeps; None keeps all, and so for those beyond the mask's end.

    As in the authors' pipeline: a caption, or several of one length, is cut; of captions of several lengths the rest is zeroed.
    """
    if mask is None:
        return text
    chosen = functional.pad(mask.to(text.device).flatten(1) != 0, (0, text.shape[1] - mask.flatten(1).shape[1]), value=True)
    alike = bool((chosen == chosen[:1]).all()) and bool(chosen.any())
    return text[:, chosen[0]] if alike else text * chosen[..., None].to(text)


class _Config(comfy.supported_models_base.BASE):
    """What the host wants to know of a model: how it was trained to predict, and what its latents are."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, shape: Shape, about: dict[str, str]) -> None:
        super().__init__({"shape": shape, "in_channels": shape.channels})
        flow = about.get("prediction") == "flow"
        self.kind = comfy.model_base.ModelType.FLOW if flow else comfy.model_base.ModelType.EPS
        # The published models are trained on 1000 steps with betas from 0.0001 to 0.02, which the host calls sqrt_linear.
        linear = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02, "timesteps": 1000}
        self.sampling_settings = {"shift": float(about.get("shift", 1.0))} if flow else linear
        small = comfy.latent_formats.Flux() if shape.channels == 16 else comfy.latent_formats.SD15()
        self.latent_format = _Clip() if shape.frames else small


def load(path: Path | str) -> Any:
    """A published or demo DiT or Latte as the host's ModelPatcher. Raises CacheError where the file holds something else."""
    weights, about = read(Path(path))
    return build(weights, about)


def build(weights: dict[str, Tensor], about: dict[str, str]) -> Any:
    """The host's ModelPatcher of weights in the published key layout and what their file says of itself."""
    shape = shape_of(weights, about)
    config = _Config(shape, about)
    device, supported = comfy.model_management.get_torch_device(), list(config.supported_inference_dtypes)
    size = sum(value.numel() for value in weights.values())
    dtype = comfy.model_management.unet_dtype(model_params=size, supported_dtypes=supported)
    config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device, supported))
    model = (Captioned if shape.text else Labelled)(config, config.kind, unet_model=_network)
    _fill(model.diffusion_model, ours(weights))
    return comfy.model_patcher.ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def _fill(network: Network, weights: dict[str, Tensor]) -> None:
    """Load the weights. Raises CacheError where they are others than the network's, or of other sizes."""
    expected = network.state_dict()
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    other = [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    if missing or unexpected or other:
        sizes = "".join(f"have {key} of {list(weights[key].shape)} in place of {list(expected[key].shape)}" for key in sorted(other)[:1])
        found = f"lack {', '.join(missing[:3])}" if missing else f"have {', '.join(unexpected[:3])} besides" if unexpected else sizes
        kind = next(base.__name__ for base in type(network).__mro__ if base in (LatteT2V, Latte, DiT))
        raise CacheError(f"The weights look like a {kind} and {found}. Take the file as it was published.")
    network.load_state_dict(weights)


def condition(labels: list[int]) -> list[list[Any]]:
    """A condition in the host's format with a label for each sample of the batch; -1 is no class."""
    return [[torch.zeros(1, 1, 1), {LABEL: torch.tensor(labels, dtype=torch.long)}]]
