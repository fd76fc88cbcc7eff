"""LSE-D and LSE-C by SyncNet (Chung and Zisserman 2016), computed as the authors' code does, array
for array.

What varies between published numbers is named here: the crop, the zero padding at the ends, the
frame rate. Numbers of different settings must not be compared, and a clip of few windows means
little: both stand in every record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowportrait.arrays import Array, Pcm
from flowportrait.config import Frozen
from flowportrait.encoders.cepstra import mfcc
from flowportrait.errors import CheckpointError
from flowportrait.faces.crop import crop_face, resized, smoothed_path
from flowportrait.files import sha256_of
from flowportrait.pretrained import WEIGHTS
from flowportrait.registry import FACE_DETECTORS
from flowportrait.scoring.metrics.metric import Metric, Reading
from flowportrait.scoring.metrics.view import Blocks, Unscorable, View
from flowportrait.sound import SPEECH_HZ
from flowportrait.tensors import Rows

FaceCrops = UInt8[np.ndarray, "f 224 224 3"]

FPS = 25
WINDOW = 5  # frames
MFCC_PER_FRAME = 4
_LOOKED_AT_PX = 256  # to find the face that speaks; the authors look at a quarter of the size

Padding = Literal["zero", "valid"]


class SyncNet(nn.Module):
    """The two towers, under the names of the official checkpoint; 13.6 million parameters."""

    def __init__(self):
        super().__init__()
        self._add_sound_layers()
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_layer(nn.Conv3d(3, 96, (5, 7, 7), (1, 2, 2))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer(nn.Conv3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            *_layer(nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1))),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer(nn.Conv3d(256, 512, (1, 6, 6))),
        )

    def _add_sound_layers(self) -> None:
        """Layers that see the sound, under the names of the published weights."""
        self.netcnnaud = nn.Sequential(
            *_layer(nn.Conv2d(1, 64, 3, 1, 1)),
            nn.MaxPool2d(1, 1),
            *_layer(nn.Conv2d(64, 192, 3, 1, 1)),
            nn.MaxPool2d(3, (1, 2)),
            *_layer(nn.Conv2d(192, 384, 3, padding=1)),
            *_layer(nn.Conv2d(384, 256, 3, padding=1)),
            *_layer(nn.Conv2d(256, 256, 3, padding=1)),
            nn.MaxPool2d(3, 2),
            *_layer(nn.Conv2d(256, 512, (5, 4))),
        )

    @torch.inference_mode()
    def heard(self, cepstra: Float[Tensor, "b 1 13 20"]) -> Float[Tensor, "b 1024"]:
        """Embeddings of 0.2 s of sound."""
        return self.netfcaud(self.netcnnaud(cepstra).flatten(1))

    @torch.inference_mode()
    def seen(self, frames: Float[Tensor, "b 3 5 224 224"]) -> Float[Tensor, "b 1024"]:
        """Embeddings of five frames, BGR levels from 0 to 255."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))


def _layer(convolution: nn.Module) -> list[nn.Module]:
    norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm3d
    return [convolution, norm(convolution.out_channels), nn.ReLU()]


def _head() -> nn.Sequential:
    """Layers that bring features to the width in which sound and lips are compared."""
    return nn.Sequential(
        nn.Linear(512, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, 1024),
    )


def embeddings(
    network: SyncNet,
    blocks: Iterable[FaceCrops],
    samples: Pcm,
    batch: int = 20,
) -> tuple[Float[Tensor, "n 1024"], Float[Tensor, "n 1024"]]:
    """Lips and sound of every window, one a frame; RGB frames at 25 fps in blocks, `samples` at 16
    kHz.

    Raises Unscorable when there is not one whole window.
    """
    heard = len(samples) // (SPEECH_HZ // FPS)
    see = _lips_by_frames(network)
    frames = chain.from_iterable(blocks)
    lips = []
    num_frames = WINDOW - 1
    shown = list(islice(frames, WINDOW - 1))
    while num_frames < heard and (fresh := list(islice(frames, min(batch, heard - num_frames)))):
        num_frames += len(fresh)
        lips.append(see(np.stack([*shown, *fresh])))
        shown = [*shown, *fresh][1 - WINDOW :]
    # The authors' loop leaves the last window out.
    count = min(num_frames, heard) - WINDOW
    if count < 1:
        both = min(num_frames, heard)
        raise Unscorable(
            f"has {both} frames of sound and picture at 25 fps; SyncNet needs {WINDOW + 1}"
        )
    cepstra = torch.from_numpy(mfcc(samples)).float().T
    sounds = []
    for start in range(0, count, batch):
        columns = [MFCC_PER_FRAME * i for i in range(start, min(start + batch, count))]
        sounds.append(network.heard(torch.stack([cepstra[None, :, c : c + 20] for c in columns])))
    return torch.cat(lips)[:count], torch.cat(sounds)


def _lips_by_frames(network: SyncNet) -> Callable[[Array], Tensor]:
    """`seen` of every five frames in a row. No layer goes beyond those five in time, so that all
    are layers of pictures with 15 channels, which are computed half as fast again; batch norms
    become part of the convolutions before them.
    """
    layers: list[nn.Module] = []
    for layer, after in pairwise([*network.netcnnlip, nn.Identity()]):
        if isinstance(layer, nn.Conv3d):
            layers.append(_of_pictures(fuse_conv_bn_eval(layer, after)))
        elif isinstance(layer, nn.MaxPool3d):
            padding = layer.padding[1:] if isinstance(layer.padding, tuple) else layer.padding
            layers.append(nn.MaxPool2d(layer.kernel_size[1:], layer.stride[1:], padding))
        elif isinstance(layer, nn.ReLU):
            layers.append(nn.ReLU(inplace=True))
    trunk = nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def see(frames: Array) -> Tensor:
        windows = torch.from_numpy(frames[..., ::-1].copy()).float().unfold(0, WINDOW, 1)
        x = windows.transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)
        return network.netfclip(trunk(x).flatten(1))

    return see


def _of_pictures(layer: nn.Conv3d) -> nn.Conv2d:
    """A convolution over pictures whose channels are the frames, equal to one over frames."""
    depth, *size = layer.kernel_size
    flat = nn.Conv2d(
        layer.in_channels * depth, layer.out_channels, size, layer.stride[1:], layer.padding[1:]
    )
    flat.weight, flat.bias = (
        nn.Parameter(layer.weight.transpose(1, 2).flatten(1, 2), False),
        layer.bias,
    )
    return flat


class Lse(NamedTuple):
    """Lip-sync errors of a clip. `offset` is negative where the sound is late, in frames at 25
    fps.
    """

    distance: float
    confidence: float
    offset: int
    num_windows: int


def distances(
    lips: Rows,
    sounds: Rows,
    reach: int = 15,
    padding: Padding = "zero",
) -> Float[Tensor, "n k"]:
    """Euclidean distances of each window's lips to the sound -reach...reach windows later.

    Beyond the ends there are zero vectors, as in the authors' code, or nan (`valid`), which no mean
    counts.
    """
    padded = F.pad(sounds, (0, 0, reach, reach), value=0.0 if padding == "zero" else math.nan)
    return torch.stack(
        [
            F.pairwise_distance(lips, padded[shift : shift + len(lips)])
            for shift in range(2 * reach + 1)
        ],
        1,
    )


def lse(
    lips: Rows,
    sounds: Rows,
    reach: int = 15,
    padding: Padding = "zero",
) -> Lse:
    """LSE-D: the least mean distance over all shifts; LSE-C: the median over shifts less that."""
    means = distances(lips, sounds, reach, padding).nanmean(0)
    least = means.min(0)
    return Lse(
        float(least.values),
        float(means.median() - least.values),
        reach - int(least.indices),
        len(lips),
    )


@lru_cache(maxsize=1)
def load_syncnet(path: Path) -> SyncNet:
    """SyncNet with the official weights (`syncnet_v2.model`, a state dict)."""
    network = SyncNet()
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"{path}: not SyncNet's weights (lacks {len(missing)} tensors, has {len(unexpected)} of"
            " another)"
        )
    return network.eval().requires_grad_(False)


def face_crops(view: View, detect_every: int = 4, fps: float | None = FPS) -> Iterator[FaceCrops]:
    """The authors' crop: a square of 1.4 face boxes' half sides, more chin than forehead, its path
    smoothed by medians.

    The boxes are our detector's, not S3FD's; frames without a face take the box between their
    neighbours'. The clip passes by twice, once to be searched and once to be cut. Raises Unscorable
    when fewer than half of the frames show a face.
    """
    path = view.keep(
        ("lse faces", detect_every, fps), lambda: _face_path(view.blocks(fps), detect_every)
    )
    places = iter(path)
    for block in view.blocks(fps):
        yield np.stack([crop_face(frame, *next(places)) for frame in block])


def _face_path(blocks: Blocks, detect_every: int) -> Float[np.ndarray, "f 3"]:
    """Where to cut each frame: x, y and half the side of its face."""
    detector = FACE_DETECTORS.load("centerface")(side_px=_LOOKED_AT_PX)
    found = {}
    count = 0
    for count, frame in enumerate(chain.from_iterable(blocks), 1):
        if (count - 1) % detect_every == 0:
            found[count - 1] = max(detector.detect(frame), key=lambda box: box.area, default=None)
    seen = [i for i, box in found.items() if box is not None]
    if len(seen) < len(found) / 2:
        raise Unscorable(
            f"shows a face in {len(seen)} of {len(found)} frames; at least half are needed; for"
            " cropped clips set crop = 'none'"
        )
    boxes = np.array([found[i][:4] for i in seen], float)
    sides = [np.interp(np.arange(count), seen, boxes[:, side]) for side in range(4)]
    return smoothed_path(np.stack(sides, 1))


class LseConfig(Frozen):
    """How LSE is computed; the defaults are the authors' for videos in the wild."""

    crop: Literal["face", "none"] = Field(
        "face",
        description="none: use the whole frame, for clips that are already cropped to a face",
    )
    padding: Padding = "zero"
    frames: Literal["by_time", "as_they_come"] = Field(
        "by_time",
        description=(
            "by_time: resample to 25 fps; as_they_come: treat frames as 25 fps without resampling, "
            "as some scripts do, so that a 24 fps clip drifts by a frame per second"
        ),
    )
    detect_every: int = Field(
        4,
        ge=1,
        description=(
            "frames between face detections; boxes are interpolated, then smoothed over 13 frames"
        ),
    )
    reach: int = Field(15, ge=1, le=50, description="largest shift tested, in frames at 25 fps")
    weights: Path | None = None


class _LseScorer(Metric):
    needs = frozenset({"frames", "sound", "weights"})
    version = 3
    Config = LseConfig

    @cached_property
    def _file(self) -> Path:
        return WEIGHTS["syncnet"].find(self.config.weights)

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self._file)

    @property
    def looks_at_fps(self) -> float | None:
        """See `Metric`."""
        if self.config.frames == "by_time":
            return FPS
        return None

    def _lse(self, view: View) -> Lse:
        return view.keep(("lse", self.config.model_dump_json()), lambda: self._computed(view))

    def _computed(self, view: View) -> Lse:
        """The figures of a view, from the face's crops or the whole picture."""
        fps = self.looks_at_fps
        whole = self.config.crop == "none"
        if whole:
            cut = map(resized, view.blocks(fps))
        else:
            cut = face_crops(view, self.config.detect_every, fps)
        return lse(
            *embeddings(load_syncnet(self._file), cut, view.pcm),
            self.config.reach,
            self.config.padding,
        )


class LseD(_LseScorer):
    """SyncNet distance between lips and sound at the best shift."""

    name = "lse-d"
    unit = "1"
    low = 0.0
    high = math.inf
    better = "lower"

    def read(self, view: View) -> Reading:
        found = self._lse(view)
        return Reading(found.distance, {"offset": found.offset, "windows": found.num_windows})


class LseC(_LseScorer):
    """SyncNet confidence: median distance over shifts minus the distance at the best shift."""

    name = "lse-c"
    unit = "1"
    low = 0.0
    high = math.inf
    better = "higher"

    def read(self, view: View) -> Reading:
        found = self._lse(view)
        return Reading(found.confidence, {"offset": found.offset, "windows": found.num_windows})
