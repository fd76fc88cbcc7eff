"""`sync-small`: how much better the sound fits the lips where it is than elsewhere, by a small
network of our own.

It was trained on rendered heads and one real speaker (models/sync-small/CARD.md): a judge within
that domain, and no replacement for LSE. Confidence, offset and distance are given beside the value
as SyncNet's authors define them, in cosines and at 24 fps; they must not be compared with LSE-C and
LSE-D.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from flowportrait.config import Frozen, load_recipe
from flowportrait.encoders.sync import SyncNetwork, as_seen, cut_mouths, mouth_places, shift_profile
from flowportrait.errors import CheckpointError
from flowportrait.files import sha256_of
from flowportrait.precision import matmul_precision
from flowportrait.registry import MODELS_DIR
from flowportrait.scoring.metrics.metric import Metric, Reading
from flowportrait.scoring.metrics.tracking import FPS, FaceTrack, track_face
from flowportrait.scoring.metrics.view import Unscorable, View
from flowportrait.sound import SPEECH_HZ

SHIPPED = MODELS_DIR / "sync-small" / "sync.safetensors"
SHIPPED_SHA256 = "5bd7e3a37c7277e065ae3107011c8c2f7ff8efe317dc76a5755c41eaf2af6594"
QUIET = 1e-3  # of full scale: sound that never exceeds it is silence


class Fit(NamedTuple):
    """Match of sound and lips. `profile` [2 reach + 1]: mean cosine by shift, sound late to the
    right.
    """

    profile: Float[Tensor, " shifts"]
    num_windows: int

    @property
    def reach(self) -> int:
        """Frames of shift to either side."""
        return len(self.profile) // 2

    @property
    def margin(self) -> float:
        """Cosine at no shift less the median over shifts."""
        return float(self.profile[self.reach] - self.profile.median())

    @property
    def confidence(self) -> float:
        """The greatest cosine less the median over shifts, after LSE-C."""
        return float(self.profile.max() - self.profile.median())

    @property
    def offset(self) -> int:
        """Frames at 24 fps, negative where the sound is late, as SyncNet's authors count it."""
        return self.reach - int(self.profile.argmax())

    @property
    def distance(self) -> float:
        """Euclidean distance of embeddings of length one that have the greatest mean cosine, after
        LSE-D.
        """
        return math.sqrt(max(0.0, 2 - 2 * float(self.profile.max())))


@torch.inference_mode()
def lips_of(network: SyncNetwork, track: FaceTrack) -> Float[Tensor, "f d"]:
    """Embeddings of a tracked face's lips, one a frame."""
    places = mouth_places(torch.from_numpy(track.landmarks))
    mouths = as_seen(cut_mouths(torch.from_numpy(track.frames), places))
    with matmul_precision("cpu"):
        return network.lips(mouths[None])[0]


@torch.inference_mode()
def fit(
    network: SyncNetwork, lips: Float[Tensor, "f d"], samples: Float[np.ndarray, " s"], reach: int
) -> Fit:
    """Fits lips at 24 fps and sound at 16 kHz. Raises Unscorable for less than two reaches and a
    half, or silence.
    """
    needed = math.ceil(2.5 * reach)
    num_frames = min(len(lips), int(len(samples) / SPEECH_HZ * FPS))
    if num_frames < needed:
        raise Unscorable(
            f"has {num_frames} frames of picture and sound at {FPS} fps; sync-small needs {needed}"
        )
    if np.abs(samples).max() < QUIET:
        raise Unscorable("is silent throughout")
    mels = network.sound.mels(torch.from_numpy(samples)[None])
    with matmul_precision("cpu"):
        sounds = network.hear(mels, num_frames)[0]
    return Fit(shift_profile(lips[:num_frames], sounds, reach), num_frames)


@lru_cache(maxsize=2)
def load_sync(path: Path) -> SyncNetwork:
    """The network of a file that `flowportrait train sync` wrote, its sizes beside it in
    sync.json.
    """
    config = load_recipe(path.with_name("sync.json"), SyncNetwork.Config)
    network = SyncNetwork(config)
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(
            f"{path}: does not match sync.json ({reason}); use the files of the same run"
        ) from error
    return network.eval().requires_grad_(False)


class SyncSmall(Metric):
    """Cosine similarity of sound and lips, minus its median over shifts of up to +-0.5 s."""

    name = "sync-small"
    unit = "cosine"
    low = -2.0
    high = 2.0
    better = "higher"
    needs = frozenset({"frames", "sound"})
    looks_at_fps = FPS

    class Config(Frozen):
        """`weights`: your own sync.safetensors; the shipped one by default."""

        reach: int = Field(12, ge=2, le=50, description="largest shift tested, in frames at 24 fps")
        weights: Path | None = None

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file())

    def read(self, view: View) -> Reading:
        found = self.fit(view)
        parts = {"confidence": found.confidence, "offset": found.offset, "distance": found.distance}
        return Reading(found.margin, parts | {"windows": found.num_windows})

    def fit(self, view: View) -> Fit:
        """The whole profile of a clip, computed once for all that ask."""
        return view.keep(
            ("sync-small", self.config.model_dump_json()), lambda: self._computed(view)
        )

    def _computed(self, view: View) -> Fit:
        """How well lips fit the sound at each offset."""
        path = self._file()
        network = load_sync(path)
        lips = view.keep(("sync-small lips", path), lambda: lips_of(network, track_face(view)))
        return fit(network, lips, view.sound, self.config.reach)

    def _file(self) -> Path:
        """The weights. Raises CheckpointError for a file that is missing or damaged."""
        path = self.config.weights or SHIPPED
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; create it with `flowportrait train sync`")
        if path == SHIPPED and sha256_of(path) != SHIPPED_SHA256:
            raise CheckpointError(
                f"{path}: damaged, not the file that was shipped; install flowportrait again"
            )
        return path
