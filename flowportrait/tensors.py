"""Names of the tensors that pass between the parts. The letters are the axes: b clips of a batch, c
channels, f frames, l latent frames, n tokens of d numbers, h and w places, s samples.
"""

from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "b n d"]
Latents = Float[Tensor, "b c l h w"]
Maps = Float[Tensor, "b c h w"]
Pictures = Float[Tensor, "b 3 h w"]
Crops = Float[Tensor, "f 3 s s"]
"""Square pictures of a face, one for each frame."""
Sound = Float[Tensor, "b s"]
PerClip = Float[Tensor, " b"]
LandmarkTrack = Float[Tensor, "f 68 2"]
Rows = Float[Tensor, "n d"]
