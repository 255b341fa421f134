"""Nodes of the demo models: captions in, pictures out. The models themselves load with ComfyUI's own UNETLoader."""

from pathlib import Path
from typing import Any

import comfy.latent_formats
import folder_paths
import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..demo import codec, text
from ..demo.models import positions
from ..demo.world import parse

FORMATS = {"flux": comfy.latent_formats.Flux, "wan": comfy.latent_formats.Wan21}
SCALE = 2  # a picture is enlarged on decoding so that the host's 8 pixels per latent pixel hold
_EXAMPLE = "a large striped red circle at the top left and a small plain blue star at the bottom, on a grey background"

folder_paths.add_model_folder_path("diffusion_models", str(Path(text.__file__).parent / "weights" / "diffusion_models"))


def _family() -> io.Combo.Input:
    return io.Combo.Input("family", options=list(FORMATS), tooltip="Which demo model it is for: flux makes pictures, wan makes clips.")


class EncoreDemoPrompt(io.ComfyNode):
    """Captions of the shapes world as conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreDemoPrompt",
            display_name="Encore Demo Prompt",
            category="encore/demo",
            description="The text encoder of the demo models. They know a small world of shapes and read complete captions "
            "of it; the error message lists all words.",
            inputs=[
                _family(),
                io.String.Input(
                    "text",
                    multiline=True,
                    default=_EXAMPLE,
                    tooltip="A caption a line: each line is for one picture of the batch. Empty: the unconditional prompt.",
                ),
                io.Int.Input(
                    "length",
                    default=17,
                    min=1,
                    max=81,
                    step=4,
                    optional=True,
                    advanced=True,
                    tooltip="Frames of the clip, 1 to 81, the same as in the empty latent: wan is told where each of its pixels "
                    "lies. It was trained on 17. Pictures do not need it.",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="As ComfyUI's own text encoders make it.")],
        )

    @classmethod
    def execute(cls, family: str, text: str, length: int = 17) -> io.NodeOutput:
        return io.NodeOutput(conditioning(family, text, length))


class EncoreDemoCodec(io.ComfyNode):
    """The demo models' fixed latent codec as a VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreDemoCodec",
            display_name="Encore Demo Codec",
            category="encore/demo",
            description="The demo models' picture codec. Connect it where a VAE goes.",
            inputs=[_family()],
            outputs=[io.Vae.Output(tooltip="For VAE Decode and VAE Encode.")],
        )

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        return io.NodeOutput(DemoVAE(family))


def conditioning(family: str, captions: str, length: int = 17) -> list[list[Any]]:
    """One condition in the host's format, with a row for each line of `captions`; for a clip of `length` frames."""
    lines = [line for line in captions.splitlines() if line.strip()]
    context = text.encode(family, [parse(line) for line in lines] or [None], text.load_table(family))
    extra = {"pooled_output": context.mean(1)}
    if family == "wan":
        extra["concat_latent_image"] = FORMATS[family]().process_out(positions((length - 1) // 4 + 1).clone())
    return [[context, extra]]


class DemoVAE:
    """The part of the host's VAE interface that its nodes use."""

    latent_channels = 16

    def __init__(self, family: str) -> None:
        self.video = family == "wan"
        self._format = FORMATS[family]()

    def decode(self, samples: Tensor, **_: Any) -> Tensor:
        """Pictures [N, H, W, 3], or clips [N, F, H, W, 3], in 0..1 of a latent [N, 16, (F,) H/8, W/8] as samplers return it."""
        latent = self._format.process_in(samples.float().cpu())
        pictures = codec.decode(latent if latent.ndim == 5 else latent[:, :, None])
        flat = rearrange(pictures, "n f h w c -> (n f) c h w")
        large = torch.nn.functional.interpolate(flat, scale_factor=SCALE, mode="bicubic").clamp(0, 1)
        clips: Tensor = rearrange(large, "(n f) c h w -> n f h w c", n=len(pictures))
        return clips if self.video else clips[:, 0]

    def encode(self, pixels: Tensor) -> Tensor:
        """Latent [N, 16, H/8, W/8] of pictures [N, H, W, 3]; a clip's frames [F, H, W, 3] make one latent [1, 16, F, ...]."""
        step = 8
        height, width = (size // step * step for size in pixels.shape[1:3])
        flat = pixels[:, :height, :width, :3].float().cpu().movedim(-1, 1)
        small = torch.nn.functional.avg_pool2d(flat, SCALE).movedim(1, -1)
        latent = codec.encode(small[None] if self.video else small[:, None])
        samples: Tensor = self._format.process_out(latent)
        return samples if self.video else samples[:, :, 0]

    def decode_tiled(self, samples: Tensor, **_: Any) -> Tensor:
        return self.decode(samples)

    def encode_tiled(self, pixels: Tensor, **_: Any) -> Tensor:
        return self.encode(pixels)

    def spacial_compression_decode(self) -> int:
        return 8

    def spacial_compression_encode(self) -> int:
        return 8

    def temporal_compression_decode(self) -> int | None:
        return 4 if self.video else None
