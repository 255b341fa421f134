"""The nodes: a schema and one call each."""

from comfy_api.latest import ComfyExtension, io

from .blockcache import BLOCKCACHE
from .cache import Encore, EncoreMeasure
from .compose import COMPOSE
from .demo import EncoreDemoCodec, EncoreDemoPrompt
from .methods import METHODS
from .relay import EncoreRelay
from .report import EncoreReport
from .skip import SKIP
from .trace import EncoreCalibrate, EncoreTrace
from .var import NODES as VAR

NODES: list[type[io.ComfyNode]] = [
    Encore,
    EncoreTrace,
    EncoreCalibrate,
    EncoreMeasure,
    EncoreReport,
    EncoreRelay,
    EncoreDemoPrompt,
    EncoreDemoCodec,
    *METHODS,
    *BLOCKCACHE,
    *COMPOSE,
    *SKIP,
    *VAR,
]


class EncoreExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
