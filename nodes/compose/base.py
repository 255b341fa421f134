"""What the nodes of all parts of a recipe have in common, and the sockets they are joined by."""

from typing import Any, ClassVar

from comfy_api.latest import io

POLICY = io.Custom("ENCORE_POLICY")
PREDICTOR = io.Custom("ENCORE_PREDICTOR")
RECIPE = io.Custom("ENCORE_RECIPE")


class Part(io.ComfyNode):
    """A part of a recipe as a node. Its class says it in words, its inputs, and how to build the part from them."""

    node_id: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    socket: ClassVar[Any]
    output: ClassVar[tuple[str, str]]  # name and tooltip

    @classmethod
    def inputs(cls) -> list[Any]:
        """Sockets first, then widgets."""
        raise NotImplementedError

    @classmethod
    def build(cls, *args: Any, **given: Any) -> Any:
        """The part; RecipeError if the inputs make none."""
        raise NotImplementedError

    @classmethod
    def define_schema(cls) -> io.Schema:
        name, tooltip = cls.output
        return io.Schema(
            node_id=cls.node_id,
            display_name=cls.title,
            category="encore/compose",
            description=cls.summary,
            inputs=cls.inputs(),
            outputs=[cls.socket.Output(display_name=name, tooltip=tooltip)],
        )

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        return io.NodeOutput(cls.build(**given))


class PolicyPart(Part):
    """Says when to reuse."""

    socket = POLICY
    output = ("policy", "To a guard, or to Encore Recipe.")


class PredictorPart(Part):
    """Says what to answer instead of computing."""

    socket = PREDICTOR
    output = ("predictor", "To Encore Recipe, or to a predictor that goes around another.")


def real(name: str, default: float, limits: tuple[float, float], tooltip: str, step: float = 0.01) -> io.Float.Input:
    """A widget for a number with a fraction, its `limits` least and most."""
    return io.Float.Input(name, default=default, min=limits[0], max=limits[1], step=step, round=step / 10, tooltip=tooltip)


def whole(name: str, default: int, limits: tuple[int, int], tooltip: str) -> io.Int.Input:
    """A widget for a count, its `limits` least and most."""
    return io.Int.Input(name, default=default, min=limits[0], max=limits[1], tooltip=tooltip)
