"""Registered names: tables of `name -> "module:Class"`, and the model directories.

A table holds strings, so that listing names imports nothing heavy. Another package adds a part
through an entry point of the table's group; within flowportrait it is one line here.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from flowportrait import storage
from flowportrait.errors import ConfigError

MODELS_DIR = Path(__file__).parent / "models"
SAMPLES_DIR = Path(__file__).parent / "samples"
OF_A_CLONE = ("tiny-sft",)
"""Models that the wheel leaves out for their size."""
_PACKAGED = Path(__file__).parent / "recipes"
_BESIDE = Path(__file__).parent.parent / "recipes"
RECIPES_DIR = _PACKAGED if _PACKAGED.is_dir() else _BESIDE
"""Recipes lie inside an installed package, and beside the package in a checkout."""


def name_hint(got: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? allowed: x, y` for a name that is not among the allowed ones."""
    names = sorted(allowed)
    near = get_close_matches(got.lower(), names, n=1, cutoff=0.6)
    question = f"did you mean '{near[0]}'? " if near else ""
    return f"{question}allowed: {', '.join(names) or '(none installed)'}"


@cache
def _outside(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group in all packages on `path`, which is sys.path; to find them takes
    a read of every package's, so each group is looked for once.
    """
    return tuple(entry_points(group=group))


@dataclass(frozen=True)
class PartTable:
    """The parts of one kind by name: `builtins` and entry points of `group`."""

    kind: str
    builtins: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The entry-point group through which other packages add a part of this kind."""
        return f"flowportrait.{self.kind.replace(' ', '_')}s"

    def targets(self) -> dict[str, str]:
        """name -> "module:Class" of all parts; a built-in name cannot be taken over from
        outside.
        """
        outside = _outside(self.group, tuple(sys.path))
        return {entry.name: entry.value for entry in outside} | dict(self.builtins)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.targets())

    def load(self, name: str) -> Any:
        """The class or function behind `name`. Raises ConfigError that names the nearest one."""
        targets = self.builtins if name in self.builtins else self.targets()
        if name not in targets:
            raise ConfigError(f"{self.kind}: no '{name}'; {name_hint(name, targets)}")
        module, _, attribute = targets[name].partition(":")
        return getattr(import_module(module), attribute)


CODECS = PartTable(
    "codec",
    {
        "portrait": "flowportrait.codecs.portrait:PortraitCodec",
        "wan": "flowportrait.codecs.wan:WanCodec",
    },
)
AUDIO_ENCODERS = PartTable(
    "audio encoder",
    {
        "mel": "flowportrait.encoders.mel:MelEncoder",
        "whisper": "flowportrait.encoders.speech:WhisperEncoder",
        "wav2vec2": "flowportrait.encoders.speech:Wav2Vec2Encoder",
    },
)
IMAGE_ENCODERS = PartTable(
    "image encoder",
    {
        "portrait": "flowportrait.encoders.portrait:PortraitTokens",
        "siglip": "flowportrait.encoders.siglip:SiglipEncoder",
    },
)
MEASURES = PartTable(
    "measure",
    {
        name: f"flowportrait.train.measures:{name}"
        for name in (
            "lip_truth",
            "lip_loudness",
            "smoothness",
            "closeness",
            "motion_px",
            "jitter",
            "colour_drift",
            "difference_energy",
            "sharpness",
        )
    }
    | {
        name: f"flowportrait.train.landmark_measures:{name}"
        for name in (
            "landmark_lips",
            "landmark_lip_size",
            "landmark_lip_level",
            "landmark_mouth_width",
            "landmark_expression",
            "landmark_motion",
            "landmark_closeness",
            "landmark_steadiness",
            "landmark_jitter",
            "landmark_speed",
        )
    }
    | {"mesh_lips": "flowportrait.train.mesh_measures:mesh_lips"},
)
"""Measures of a generated clip that rewards and monitors name beside `SCORERS`; see
`scoring/rewards.py`.
"""
FACE_DETECTORS = PartTable(
    "face detector",
    {
        "centerface": "flowportrait.faces.centerface:CenterFaceDetector",
        "buffalo_sc": "flowportrait.faces.scrfd:ScrfdDetector",
    },
)
OVERLAP_FINDERS = PartTable(
    "overlap finder", {"pyannote": "flowportrait.prepare.overlap:PyannoteOverlap"}
)
LANGUAGE_FINDERS = PartTable(
    "language finder", {"whisper": "flowportrait.prepare.language:WhisperLanguage"}
)
"""Speech filters of `prepare`; see `prepare/speech.py` for what they are given and give."""

_SCORE_JUDGES = {
    "sas-sa": "flowportrait.scoring.judges.systems:SasSa",
    "mas-sa": "flowportrait.scoring.judges.systems:MasSa",
    "mas-ma": "flowportrait.scoring.judges.systems:MasMa",
}
_COMPARISON_JUDGES = {
    "direct-comp": "flowportrait.scoring.judges.systems:DirectComp",
    "icl-comp": "flowportrait.scoring.judges.systems:IclComp",
    "ma-comp": "flowportrait.scoring.judges.systems:MaComp",
}
SCORERS = PartTable(
    "scorer",
    {
        **_SCORE_JUDGES,
        "lip_sync": "flowportrait.scoring.judges.systems:LipSync",
        "expressiveness": "flowportrait.scoring.judges.systems:Expressiveness",
        "motion": "flowportrait.scoring.judges.systems:MotionAspect",
        "ssim": "flowportrait.scoring.metrics.pixel:Ssim",
        "psnr": "flowportrait.scoring.metrics.pixel:Psnr",
        "sharpness": "flowportrait.scoring.metrics.pixel:Sharpness",
        "colour-drift": "flowportrait.scoring.metrics.pixel:ColourDrift",
        "fid-clip": "flowportrait.scoring.metrics.frechet:FidClip",
        "frechet-lite0-clip": "flowportrait.scoring.metrics.frechet:FrechetLite0Clip",
        "perceptual-lite0": "flowportrait.scoring.metrics.perceptual:PerceptualLite0",
        "lpips": "flowportrait.scoring.metrics.perceptual:LpipsAlex",
        "lpips-vgg": "flowportrait.scoring.metrics.perceptual:LpipsVgg",
        "lpips-squeeze": "flowportrait.scoring.metrics.perceptual:LpipsSqueeze",
        "raft-jitter": "flowportrait.scoring.metrics.jitter:RaftJitter",
        "mouth-in-silence": "flowportrait.scoring.metrics.mediapipe:MouthInSilence",
        "mouth-loudness": "flowportrait.scoring.metrics.mediapipe:MouthLoudness",
        "blink-rate": "flowportrait.scoring.metrics.mediapipe:BlinkRate",
        "identity": "flowportrait.scoring.metrics.mediapipe:Identity",
        "lse-c": "flowportrait.scoring.metrics.lse:LseC",
        "lse-d": "flowportrait.scoring.metrics.lse:LseD",
        "active-speaker": "flowportrait.scoring.metrics.active_speaker:ActiveSpeaker",
        "sync-small": "flowportrait.scoring.metrics.sync_small:SyncSmall",
        "offline-lip-sync": "flowportrait.scoring.metrics.offline:OfflineLipSync",
        "offline-expressiveness": "flowportrait.scoring.metrics.offline:OfflineExpressiveness",
        "offline-motion": "flowportrait.scoring.metrics.offline:OfflineMotion",
        "reward": "flowportrait.scoring.reward:CompositeReward",
    },
)
SET_METRICS = PartTable(
    "set metric",
    {
        "fid": "flowportrait.scoring.metrics.frechet:Fid",
        "fvd-r3d18": "flowportrait.scoring.metrics.frechet:FvdR3d18",
        "frechet-lite0": "flowportrait.scoring.metrics.frechet:FrechetLite0",
    },
)
COMPARERS = PartTable("comparer", _COMPARISON_JUDGES)
JUDGE_SYSTEMS = PartTable("judge system", {**_SCORE_JUDGES, **_COMPARISON_JUDGES})
JUDGE_BACKENDS = PartTable(
    "judge backend",
    {
        "gemini": "flowportrait.scoring.judges.backends.gemini:Gemini",
        "openai": "flowportrait.scoring.judges.backends.openai:OpenAICompatible",
        "transformers": "flowportrait.scoring.judges.backends.local:LocalTransformers",
        "replay": "flowportrait.scoring.judges.replay:Replay",
        "offline": "flowportrait.scoring.judges.backends.offline:Offline",
    },
)
OFFLINE_JUDGES = PartTable(
    "offline judge", {"signals": "flowportrait.scoring.metrics.offline:SignalJudge"}
)

LISTED = {
    "codecs": [CODECS],
    "encoders": [AUDIO_ENCODERS, IMAGE_ENCODERS],
    "detectors": [FACE_DETECTORS],
    "speech-filters": [OVERLAP_FINDERS, LANGUAGE_FINDERS],
    "scorers": [SCORERS],
    "sets": [SET_METRICS],
    "systems": [JUDGE_SYSTEMS],
    "backends": [JUDGE_BACKENDS],
}
"""What `flowportrait list` shows of the tables."""


def names_of(what: str) -> list[str]:
    """The usable names of what `flowportrait list` can list."""
    if what == "models":
        return model_names()
    if what == "recipes":
        return sorted(recipe.name for recipe in RECIPES_DIR.glob("*.toml"))
    return sorted({name for table in LISTED[what] for name in table.names()})


def model_names() -> list[str]:
    """The shipped generation models, sorted: directories of `flowportrait/models` with a
    config.json.
    """
    return sorted(config.parent.name for config in MODELS_DIR.glob("*/config.json"))


def recipe_names() -> list[str]:
    """The shipped recipes, sorted, without their suffix."""
    return sorted(recipe.stem for recipe in RECIPES_DIR.glob("*.toml"))


def find_recipe(name_or_path: str | Path) -> Path:
    """A file; or a shipped recipe as NAME, NAME.toml or recipes/NAME.toml, wherever one is.

    Raises ConfigError when it is neither.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = RECIPES_DIR / f"{path.name.removesuffix('.toml')}.toml"
    if str(path.parent) in (".", "recipes") and shipped.is_file():
        return shipped
    near = get_close_matches(shipped.stem, recipe_names(), n=1)
    question = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(
        f"{path}: no such recipe; {question}give the path of a .toml file or a name (see: list"
        " recipes)"
    )


def find_model(name_or_directory: str | Path) -> Path:
    """The directory of a shipped model or of a user's own. Raises ConfigError when it is
    neither.
    """
    text = str(name_or_directory)
    if text in model_names():
        return MODELS_DIR / text
    directory = storage.fetched(Path(text))
    if (directory / "config.json").is_file():
        return directory
    if directory.is_dir():
        raise ConfigError(
            f"model: {text} contains no config.json; {name_hint(text, model_names())}"
        )
    if text in OF_A_CLONE:
        raise ConfigError(
            f"model: '{text}' comes with a clone of the repository and not with the installed"
            " package; clone it, or take the model 'tiny'"
        )
    raise ConfigError(f"model: no model or directory '{text}'; {name_hint(text, model_names())}")
