"""Every error flowportrait raises on purpose.

FlowPortraitError
├── ConfigError         an option, recipe or name that cannot be meant
├── DataError           readable input that cannot be used (no face in the portrait)
│   └── StudyRefused        what a rater asks or sends against the rules of a study; `code` names
the rule ├── MediaError          a picture, sound or video file that cannot be read or written ├──
JudgeError          a judge that cannot be trusted or paid; the run stops │   ├── JudgeUnavailable
no answer this time (busy, broken, cut off); asking again may help │   └── JudgeRefused        no
answer to this question, however often it is asked ├── CheckpointError     weights that are absent,
damaged or of another shape ├── TrainingError       a run that stopped itself rather than go on
wrongly ├── StageFailed         a command of a chain that did not end well
└── MissingDependency   an optional package that is not installed

A message says where, what was got, what is allowed and what to do, in one line.
"""

from importlib import import_module
from types import ModuleType


class FlowPortraitError(Exception):
    """The base class of all errors that flowportrait raises on purpose."""


class ConfigError(FlowPortraitError):
    """An invalid option, recipe or name."""


class DataError(FlowPortraitError):
    """Readable input that cannot be used, such as a portrait without a face."""


class StudyRefused(DataError):
    """A request of a rater against the rules of a study. `code` is one of `CODES`, for programs."""

    CODES = (
        "unknown_rater",
        "unknown_task",
        "unknown_item",
        "bad_rating",
        "bad_ranking",
        "unwatched",
    )

    def __init__(self, code: str, message: str):
        assert code in self.CODES
        super().__init__(message)
        self.code = code


class MediaError(FlowPortraitError):
    """A picture, sound or video file that cannot be read or written."""


class JudgeError(FlowPortraitError):
    """A judge that cannot be used: wrong key, no sound input, another model, over budget. Stops the
    run.
    """


class JudgeUnavailable(JudgeError):
    """No answer this time. `retry_after_s` is the server's own word on when to come back, if it
    gave one.
    """

    def __init__(self, message: str, retry_after_s: float | None = None):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class JudgeRefused(JudgeError):
    """No answer to this question, however often it is asked: too large, malformed, not to be
    processed.
    """


class CheckpointError(FlowPortraitError):
    """Weights that are absent, damaged or of another shape than their configuration says."""


class TrainingError(FlowPortraitError):
    """A run that stopped because it cannot continue correctly, for example without scores."""


class StageFailed(FlowPortraitError):
    """A command of a chain failed; the message names its log."""


class MissingDependency(FlowPortraitError):
    """An optional package that is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """The imported optional `module`, or MissingDependency naming the extra that brings it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        # A package that is installed but broken inside must show its own error, not this one.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingDependency(
            f"{module}: not installed; this needs the extra '{extra}': pip install"
            f" 'flowportrait[{extra}]', or flowportrait doctor --fix {extra}"
        ) from error
