"""What to answer instead of computing."""

from .aligned import Aligned, Learning, Observer, Profiled, Pupil
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
    "Aligned",
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
    "Learning",
    "Linear",
    "Observer",
    "Predictor",
    "Profiled",
    "Pupil",
    "Scaled",
    "Taylor",
    "TwoAnchor",
    "Weighted",
]
