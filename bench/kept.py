"""What a recipe keeps, foretold from shapes: anchors x places x conditions x values x bytes of a value."""

from ..cache_core import Site
from ..demo.codec import BLOCK
from ..demo.world import FRAMES, SIDE
from .contest import Course, Entrant

CHANNELS, PATCH = 16, 2  # of the latent; latent pixels of a token's side
TOLD = 3  # text tokens of a demo-flux prompt: two things and their background


def kept_bytes(course: Course, entrant: Entrant, evaluations: int) -> int | None:
    """Bytes kept for one prompt after so many computed evaluations; None for branches, whose number the model decides.

    A network's values have the dtype it computes in, velocities are float32.
    """
    recipe = entrant.recipe
    assert recipe is not None
    if recipe.site is Site.BRANCH:
        return None
    side, frames = SIDE // BLOCK, FRAMES if course.family == "wan" else 1
    conditions = 1 if entrant.setting.cfg == 1.0 or recipe.site in (Site.GUIDED, Site.UNCOND) else 2
    anchors = min(recipe.predictor.depth, evaluations) * conditions
    if not recipe.site.inside:
        return anchors * CHANNELS * frames * side * side * 4
    network = course.model.model.diffusion_model
    tokens = frames * (side // PATCH) ** 2
    if course.family == "flux":  # text and picture in one sequence
        tokens += TOLD
        width, blocks = network.hidden_size, len(network.double_blocks) + len(network.single_blocks)
    else:
        width, blocks = network.dim, len(network.blocks)
    spans = recipe.cached(blocks)
    places = len(spans) if recipe.site is Site.STACK else sum(map(len, spans))
    probes = anchors if recipe.predictor.keeps_probes else 0
    total: int = (anchors * places + probes) * tokens * width * _bytes_of_a_value(course)
    return total


def _bytes_of_a_value(course: Course) -> int:
    model = course.model.model
    dtype = model.manual_cast_dtype or model.get_dtype()
    size: int = dtype.itemsize
    return size
