"""The models that numbers were published for, told apart by what their networks look like."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Network:
    """A transformer's family ("flux", "wan", "other"), its width, its blocks of all kinds, and the channels of its input; 0 = unknown."""

    family: str
    width: int = 0
    blocks: int = 0
    channels: int = 0

    def distance(self, other: "Network") -> tuple[bool, bool, float]:
        """How unlike a known network `other` is: family first, then the input's channels, then the ratio of widths."""
        apart = abs(math.log(self.width / other.width)) if self.width else 0.0
        return self.family != other.family, self.channels != other.channels, apart


# Fine-tunes look like the model they were made from: FLUX.1 Kontext and Krea like dev, Wan 2.2 A14B like Wan 2.1 14B.
MODELS = {
    "FLUX.1-dev": Network("flux", 3072, 57, 16),
    "Wan2.1-T2V-1.3B": Network("wan", 1536, 30, 16),
    "Wan2.1-T2V-14B": Network("wan", 5120, 40, 16),
    "Wan2.1-I2V-14B": Network("wan", 5120, 40, 36),
    "Wan2.1-I2V-14B-480P": Network("wan", 5120, 40, 36),
    "Wan2.1-I2V-14B-720P": Network("wan", 5120, 40, 36),
}


def closest(network: Network, names: Iterable[str]) -> tuple[str, bool]:
    """The one of these `names` of MODELS most like `network`, the first of equals, and whether it looks the same."""
    name = min(names, key=lambda name: network.distance(MODELS[name]))
    return name, MODELS[name] == network
