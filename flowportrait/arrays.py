"""Names of the arrays in numpy that pass between the parts. The letters are the axes: f frames, h
and w pixels, s samples, n of anything.
"""

import numpy as np
from jaxtyping import Float, Int16, UInt8

Rng = np.random.Generator
Array = np.ndarray
Picture = UInt8[np.ndarray, "h w 3"]
Frames = UInt8[np.ndarray, "f h w 3"]
PerFrame = Float[np.ndarray, " f"]
PlacePerFrame = Float[np.ndarray, "f 2"]
Landmarks = Float[np.ndarray, "f 68 2"]
Pcm = Int16[np.ndarray, " s"]
Values = Float[np.ndarray, " n"]
"""One number for each of n."""
