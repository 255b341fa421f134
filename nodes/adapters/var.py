"""VAR in the host: files, loading and offloading, progress with a picture of each scale, interruption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as host
import comfy.utils
import torch
from comfy.cli_args import LatentPreviewMethod, args
from PIL import Image
from torch import Tensor

from ...cache_core import CacheError
from ...cache_core.measure import Stopwatch
from ...cache_core.var.decode import Done, Draft, Order, check_pair, decode
from ...cache_core.var.load import load_var, load_vqvae
from ...cache_core.var.report import Report, titled
from ...cache_core.var.sampling import Sampling, draws
from . import residence

PREVIEW = 512  # pixels of a preview's side at most
TOGETHER = 8  # pictures painted at once


@dataclass(frozen=True, slots=True)
class Loaded:
    """A transformer and its codec under the host's management."""

    name: str
    model: Any  # ModelPatcher of a VAR
    codec: Any  # ModelPatcher of a VQVAE

    @property
    def scales(self) -> int:
        return len(self.model.model.scales)


def load(file: Path, codec: Path, dtype: torch.dtype | None) -> Loaded:
    """Read both files; `dtype` None is the host's choice for this device. The codec stays in float32, where its sums are."""
    model = load_var(file)
    count = sum(value.numel() for value in model.parameters())
    wanted = dtype or host.unet_dtype(model_params=count, supported_dtypes=[torch.float16, torch.bfloat16, torch.float32])
    loaded = Loaded(file.stem, residence.managed(model.to(wanted)), residence.managed(load_vqvae(codec)))
    check_pair(model, model, loaded.codec.model.quantize)
    return loaded


def sample(
    parts: Sequence[Loaded], drafted: int | None, classes: Sequence[int], seed: int, settings: Sampling, offload: bool = False
) -> tuple[Tensor, Report]:
    """Pictures [B, H, W, 3] in 0..1 and the report, by a drafter up to `drafted` scales and a refiner, or by one VAR: of as many, or all.

    `offload` moves the drafter off the device when its part is done; else the host does where it needs the room.
    """
    first, last = parts[0], parts[-1]
    codec, count = first.codec, first.scales
    most = count if len(parts) == 1 else count - 1
    check_pair(first.model.model, last.model.model, codec.model.quantize)
    if drafted is not None and not 1 <= drafted <= most:
        raise CacheError(f"The {first.name} can make 1 to {most} of the {count} scales of this VAR here; asked for {drafted}.")
    ends = [count] if drafted is None else [drafted, count][: len(parts)]
    order = Order(classes, draws(seed, first.model.model.scales, len(classes)), settings)
    report = Report(titled([part.name for part in parts], drafted), len(classes))
    residence.begin_peak(first.model.load_device)
    bar, draft = comfy.utils.ProgressBar(ends[-1]), None
    for part, until in zip(parts, ends, strict=True):
        network = part.model.model
        residence.bring([part.model, codec], _room(part, len(classes), until))
        weights = sum(one.model.model_size() for one in _distinct(parts) if residence.is_loaded(one.model))
        watch = _watcher(report, part.name, weights, codec.model, bar, ends[-1])
        draft = decode(network, codec.model.quantize, order, draft=draft, until=until, watch=watch)
        if offload and until < count and last.model is not part.model:
            residence.offload(part.model)
    assert draft is not None
    clock = Stopwatch(first.model.load_device.type == "cuda")
    pictures = _paint(codec.model, draft)
    report.device_peak = residence.peak(first.model.load_device)
    return pictures, report.settle(clock.stop())


def _distinct(parts: Sequence[Loaded]) -> list[Loaded]:
    return [part for n, part in enumerate(parts) if all(part.model is not other.model for other in parts[:n])]


def _room(part: Loaded, pictures: int, until: int) -> int:
    """Bytes that keys and values up to a scale will take, and as much again for what is passed between layers."""
    layout = part.model.model.layout
    size: int = part.model.model.word_embed.weight.element_size()
    kept: int = 2 * 2 * pictures * layout.depth * layout.width * layout.scales.ends[until - 1] * size
    return 2 * kept


def _watcher(report: Report, name: str, weights: int, codec: Any, bar: Any, count: int) -> Callable[[Done], None]:
    """What is told of each scale: notes it, shows it, and ends the sampling if the user says so."""

    def watch(done: Done) -> None:
        report.add(name, done, weights)
        bar.update_absolute(done.scale + 1, count, _preview(codec, done.draft))
        host.throw_exception_if_processing_interrupted()

    return watch


def _preview(codec: Any, draft: Draft) -> tuple[str, Image.Image, int] | None:
    """The first picture as far as it is, unless previews are off."""
    if args.preview_method == LatentPreviewMethod.NoPreviews:
        return None
    pixels = (255 * codec.decode(draft.features[:1])[0].movedim(0, -1)).round().byte().cpu()
    return "JPEG", Image.fromarray(pixels.numpy()), PREVIEW


def _paint(codec: Any, draft: Draft) -> Tensor:
    """Pictures [B, H, W, 3] in 0..1, a few at a time, where the host keeps pictures."""
    painted = [codec.decode(part).movedim(1, -1).float().to(host.intermediate_device()) for part in torch.split(draft.features, TOGETHER)]
    return torch.cat(painted)
