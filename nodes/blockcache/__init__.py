"""The nodes of Block Caching, in the order in which they are used."""

from comfy_api.latest import io

from .align import EncoreBlockAlignFit, EncoreBlockAlignTrain
from .analysis import EncoreAnalysis
from .cache import EncoreBlockCache
from .profile import EncoreBlockProfile
from .schedule import EncoreBlockSchedule

BLOCKCACHE: list[type[io.ComfyNode]] = [
    EncoreBlockProfile,
    EncoreBlockSchedule,
    EncoreBlockCache,
    EncoreBlockAlignFit,
    EncoreBlockAlignTrain,
    EncoreAnalysis,
]
