"""The nodes of Skip-DiT and Skip-Cache."""

from comfy_api.latest import io

from .branches import EncoreSkipBranches, EncoreSkipFit
from .cache import EncoreSkipCache
from .model import EncoreClassLabel, EncoreClipFrames, EncoreSkipModel
from .train import EncoreSkipTrain

SKIP: list[type[io.ComfyNode]] = [
    EncoreSkipCache,
    EncoreSkipBranches,
    EncoreSkipFit,
    EncoreSkipTrain,
    EncoreSkipModel,
    EncoreClassLabel,
    EncoreClipFrames,
]
