"""The judge: a small network, trained on the shapes world, that reads scenes back from pictures."""

from .frechet import frechet
from .reading import ATTRIBUTES, Reading, agreement, as_pictures, features, misses, read

__all__ = ["ATTRIBUTES", "Reading", "agreement", "as_pictures", "features", "frechet", "misses", "read"]
