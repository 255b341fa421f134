"""What to answer instead of computing."""

from .axis import Axis
from .bands import FrequencySplit
from .base import Linear, Predictor, Weighted
from .correct import Corrected, Damped
from .fitted import Fitted
from .guidance import GuidanceBands
from .magnitude import Scaled
from .polynomial import AdamsBashforth, Hold, Lagrange
from .probed import TwoAnchor
from .spectral import Chebyshev
from .taylor import Hermite, Taylor

__all__ = [
    "AdamsBashforth",
    "Axis",
    "Chebyshev",
    "Corrected",
    "Damped",
    "Fitted",
    "FrequencySplit",
    "GuidanceBands",
    "Hermite",
    "Hold",
    "Lagrange",
    "Linear",
    "Predictor",
    "Scaled",
    "Taylor",
    "TwoAnchor",
    "Weighted",
]
