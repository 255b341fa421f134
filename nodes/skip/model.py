"""Models that were trained with skip branches: the loader, class labels, and clips for a picture VAE."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from ...cache_core import CacheError
from ..adapters import dit

CATEGORY = "encore/skip"
MOST = 4096  # labels in one condition


class EncoreSkipModel(io.ComfyNode):
    """Loads a published or demo DiT or Latte."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreSkipModel",
            display_name="Encore Load Skip-DiT",
            category=CATEGORY,
            description="Loads DiT-XL/2-skip, a class-to-video or the text-to-video Latte-skip of Skip-DiT (arXiv:2411.17616), the same "
            "networks without branches, or the demo DiT. ComfyUI loads Hunyuan-DiT, which has skips of its own, itself.",
            search_aliases=["skip-dit", "dit-xl", "latte", "latte t2v", "class conditional"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A file in models/diffusion_models: DiT-XL-2-skip.pt, Latte-skip.pt, ffs-skip.pt and their like as published, "
                    "or .safetensors. Of a training's state the average is taken.",
                )
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="The model. Its conditions come from Encore Class Label; those of the text-to-video Latte from CLIP Text "
                    "Encode with a T5-XXL, Load CLIP's type pixart.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(dit.load(folder_paths.get_full_path_or_raise("diffusion_models", file)))


class EncoreClassLabel(io.ComfyNode):
    """Class labels as a condition."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreClassLabel",
            display_name="Encore Class Label",
            category=CATEGORY,
            description="The prompt of a class-conditional model: numbers of classes, such as ImageNet's 0 to 999 for DiT-XL/2. "
            "Connect one "
            "with -1 where the negative prompt goes.",
            search_aliases=["class", "imagenet", "label", "dit", "latte"],
            inputs=[
                io.String.Input(
                    "labels",
                    default="0",
                    tooltip="Whole numbers, apart by commas or spaces, one for each picture of the batch; one alone is for all of them. "
                    "-1 is no class: the unconditional prompt.",
                )
            ],
            outputs=[io.Conditioning.Output(tooltip="For the sampler.")],
        )

    @classmethod
    def execute(cls, labels: str) -> io.NodeOutput:
        return io.NodeOutput(dit.condition(numbers(labels)))


class EncoreClipFrames(io.ComfyNode):
    """The frames of a clip's latent as a batch of pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EncoreClipFrames",
            display_name="Encore Clip Frames",
            category=CATEGORY,
            description="Takes the frames of a clip's latent apart, so that VAE Decode of Stable Diffusion, which Latte uses, "
            "decodes each.",
            search_aliases=["latte", "frames", "video latent to batch"],
            inputs=[io.Latent.Input("samples", tooltip="A clip's latent, [B, C, F, H, W].")],
            outputs=[io.Latent.Output(tooltip="Pictures' latents, [B F, C, H, W], the first clip's frames first.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any]) -> io.NodeOutput:
        latent = samples["samples"]
        if latent.ndim != 5:
            raise CacheError(f"Encore Clip Frames takes the latent of clips, [B, C, F, H, W], and got {list(latent.shape)}. Leave it out.")
        return io.NodeOutput({"samples": latent.movedim(1, 2).flatten(0, 1)})


def numbers(labels: str) -> list[int]:
    """Read class labels. Raises CacheError where there is none or something else."""
    words = labels.replace(",", " ").split()
    wrong = [word for word in words if not word.removeprefix("-").isdecimal() or int(word) < -1]
    if wrong or not words or len(words) > MOST:
        found = f"{wrong[0]!r} among them" if wrong else f"{len(words)} of them"
        raise CacheError(f"Labels are whole numbers from 0 up, or -1 for no class; found {found}. Write them like this: 207, 360, -1")
    return [int(word) for word in words]
