"""Visual autoregression as nodes: load, sample with one model, sample with two (CoDe)."""

import json
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..cache_core import CacheError
from ..cache_core.var.report import Report
from ..cache_core.var.sampling import CODE, Sampling
from ..demo.var.pictures import LABELS, WEIGHTS, class_of
from .adapters.var import load, sample

FOLDER, CATEGORY = "var", "encore/var"
FILES = (".pth", ".safetensors")
DTYPES = {"default": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
VARModel = io.Custom("ENCORE_VAR")

for _place in (Path(folder_paths.models_dir) / FOLDER, WEIGHTS):
    folder_paths.add_model_folder_path(FOLDER, str(_place))


def files(codecs: bool) -> list[str]:
    """Weight files in models/var: codecs, whose names hold "vae", or transformers."""
    found = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(FILES)]
    return [name for name in found if ("vae" in Path(name).stem.lower()) == codecs]


def classes_of(text: str, known: int, pictures: int) -> list[int]:
    """Classes of the lines of `text`, each for so many pictures. Raises CacheError with the line that names none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [int(line) if line.isdecimal() else class_of(line) if known == len(LABELS) else None for line in lines]
    for line, found in zip(lines, named, strict=True):
        if found is None or not 0 <= found < known:
            words = " or a name such as 'red circle', or a caption" if known == len(LABELS) else ""
            raise CacheError(f"{line!r} is no class of this VAR. Write a number from 0 to {known - 1}{words}, one a line.")
    if not named:
        raise CacheError("There is no class to paint. Write one a line.")
    return [found for found in named if found is not None for _ in range(pictures)]


class EncoreVARLoader(io.ComfyNode):
    """Reads a transformer and its codec."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreVARLoader",
            display_name="VAR Loader",
            category=CATEGORY,
            description="Loads a VAR (visual autoregression) and its codec from models/var: the published var_d16 to d36, CoDe's "
            "drafter_N and refiner_N with vae_ch160v4096z32, or the small ones that came with Encore.",
            inputs=[
                io.Combo.Input("var_name", options=files(codecs=False), tooltip="The transformer. Its sizes are read from the file."),
                io.Combo.Input("vae_name", options=files(codecs=True), tooltip="The codec that it was trained with: vae_ch160v4096z32."),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="default",
                    optional=True,
                    advanced=True,
                    tooltip="Precision of the transformer. default: ComfyUI's choice for this device. The paper times fp16.",
                ),
            ],
            outputs=[VARModel.Output(display_name="var", tooltip="For VAR Sampler, or one of the two of CoDe Sampler.")],
        )

    @classmethod
    def execute(cls, var_name: str, vae_name: str, weight_dtype: str = "default") -> io.NodeOutput:
        paths = [Path(folder_paths.get_full_path_or_raise(FOLDER, name)) for name in (var_name, vae_name)]
        return io.NodeOutput(load(paths[0], paths[1], DTYPES[weight_dtype]))


def _order(settings: Sampling) -> list[io.Input]:
    """The inputs that both samplers have."""
    return [
        io.String.Input(
            "classes",
            multiline=True,
            default="207",
            tooltip="A class a line, by its number: 0 to 999 for ImageNet, 0 to 35 for the demo models. The demo models also take "
            "names such as 'red circle', and captions of Encore Demo Prompt, of which they hear the first thing's kind and colour.",
        ),
        io.Int.Input("pictures", default=4, min=1, max=256, tooltip="Pictures of each class."),
        io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True, tooltip="The same seed makes the same picture."),
        io.Float.Input(
            "cfg",
            default=settings.cfg,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Guidance at the last scale; it rises evenly from 0 at the first. 0 is none and takes half of the work; the paper "
            "measures with 1.5 and shows with 4.",
        ),
        io.Int.Input("top_k", default=settings.top_k, min=0, max=65536, tooltip="Words to draw from, the likeliest. 0: all."),
        io.Float.Input("top_p", default=settings.top_p, min=0.0, max=1.0, step=0.01, tooltip="Probability to keep of these. 0: all."),
        io.Float.Input(
            "temperature",
            default=settings.temperature,
            min=0.1,
            max=3.0,
            step=0.05,
            optional=True,
            advanced=True,
            tooltip="Of the first 70 % of the scales, applied after top-k and top-p; the finer ones have 1. CoDe: 1.1, plain VAR: 1.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Image.Output(tooltip="The pictures, class after class."),
        io.String.Output(display_name="report", tooltip="Seconds, tokens and memory of each scale, as text."),
        io.String.Output(display_name="json", tooltip="The same for programs."),
    ]


class EncoreVARSampler(io.ComfyNode):
    """One model makes all scales."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreVARSampler",
            display_name="VAR Sampler",
            category=CATEGORY,
            description="Paints pictures of a class with a VAR, from coarse to fine, and shows each scale as it comes.",
            inputs=[
                VARModel.Input("var", tooltip="From VAR Loader."),
                *_order(Sampling()),
                io.Int.Input(
                    "scales",
                    default=0,
                    min=0,
                    max=32,
                    optional=True,
                    advanced=True,
                    tooltip="N, the scales to make, from the coarsest on. 0: all. Fewer give a rough picture soon: what a drafter of CoDe "
                    "hands over after as many.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, var: Any, classes: str, pictures: int, seed: int, scales: int = 0, **settings: Any) -> io.NodeOutput:
        chosen = classes_of(classes, var.model.model.layout.classes, pictures)
        return _shown(*sample([var], scales or None, chosen, seed, Sampling(**settings)))


class EncoreCoDeSampler(io.ComfyNode):
    """A large model makes the coarse scales, a small one the fine ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreCoDeSampler",
            display_name="CoDe Sampler",
            category=CATEGORY,
            description="Paints with two VARs: a large one drafts the first scales, which have few tokens, a small one refines the others, "
            "which have most. Faster and with less memory at almost the same quality (collaborative decoding).",
            search_aliases=["collaborative decoding", "draft", "refine", "speed up", "faster"],
            inputs=[
                VARModel.Input("drafter", tooltip="The large VAR: var_d30, or drafter_N."),
                VARModel.Input("refiner", tooltip="The small VAR, with the same codec: var_d16, or refiner_N."),
                io.Int.Input(
                    "drafted",
                    default=8,
                    min=1,
                    max=31,
                    tooltip="N, the scales that the drafter makes: 1 to all but one. Of 10 the paper takes 8 for 1.7 times the speed, "
                    "6 for 2.9 times; of the demo models' 7, take 5 and 4. Specialised files have it in their name.",
                ),
                *_order(CODE),
                io.Boolean.Input(
                    "offload",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Move the drafter off the device once its scales are made. Off: ComfyUI does so where it needs the room.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls, drafter: Any, refiner: Any, drafted: int, classes: str, pictures: int, seed: int, offload: bool = False, **settings: Any
    ) -> io.NodeOutput:
        chosen = classes_of(classes, drafter.model.model.layout.classes, pictures)
        return _shown(*sample([drafter, refiner], drafted, chosen, seed, Sampling(**settings), offload))


def _shown(pictures: torch.Tensor, report: Report) -> io.NodeOutput:
    return io.NodeOutput(pictures, report.table(), json.dumps(report.to_dict(), indent=1))


NODES: list[type[io.ComfyNode]] = [EncoreVARLoader, EncoreVARSampler, EncoreCoDeSampler]
